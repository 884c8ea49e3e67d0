"""Subjects take turns, so that what the machine does meanwhile meets all of them alike; what counts is the median."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


async def alternating(subjects: Mapping[str, Callable[[], Awaitable[T]]], repeats: int) -> dict[str, list[T]]:
    """Measure each subject `repeats` times, one after the other, each round beginning with another one."""
    found: dict[str, list[T]] = {name: [] for name in subjects}
    names = list(subjects)
    for turn in range(repeats):
        begin = turn % len(names) if names else 0
        for name in [*names[begin:], *names[:begin]]:
            found[name].append(await subjects[name]())
    return found


def median(values: Sequence[float]) -> float | None:
    """Give the median, or nothing of nothing."""
    return statistics.median(values) if values else None
