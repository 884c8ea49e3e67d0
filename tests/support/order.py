"""In which order the suite runs: what takes long first, dealt out to all workers, so that nobody waits for it at the end.

xdist's `worksteal` gives each worker a share of the list, the shares one after the other, and lets who has nothing left take half
of what another one still has, from its end. So each share begins with its part of what is marked `early`; what is left to be taken
at the end of the run is short.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def dealt(early: Sequence[T], others: Sequence[T], workers: int) -> list[T]:
    """Put both into one list, in which the share of each worker begins with its part of the early ones."""
    left, total = list(others), len(early) + len(others)
    ordered: list[T] = []
    for worker in range(workers):
        first = early[worker::workers]
        share = (total - len(ordered)) // (workers - worker) - len(first)
        ordered += [*first, *left[: max(0, share)]]
        del left[: max(0, share)]
    return ordered
