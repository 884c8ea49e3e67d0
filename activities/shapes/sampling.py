"""Sampled reads of tables that change in place and of shapes, as one answer: medians are those of the side that was read more."""

from collections.abc import Awaitable, Callable

from pgduet.activities.engine import Work
from pgduet.activities.shapes import shapes_of
from pgduet.measured import ShadowResult
from pgduet.postgres.sampling import sample

SEEMS_SLOW = 1.1
TRIES = 3


async def calmest(probe: Callable[[], Awaitable[ShadowResult]]) -> ShadowResult:
    """Probe, and again where the new version seems slower: what it does not take each time is the machine's.

    A median of a few reads, taken within a moment, is as slow as the machine was then; so one alone would stop a shift.
    """
    found = await probe()
    for _ in range(TRIES - 1):
        if _ratio(found) <= SEEMS_SLOW:
            break
        found = min(found, await probe(), key=_ratio)
    return found


def _ratio(found: ShadowResult) -> float:
    return found.new_ms / found.old_ms if found.old_ms and found.new_ms is not None else 0.0


async def sampled(work: Work, wanted: int) -> ShadowResult:
    """Read about so many samples through both versions."""
    design = work.migration.design
    shapes = shapes_of(design)
    if not shapes:
        return await sample(work.conn, work.migration, wanted)
    share = max(1, wanted // (len(shapes) + len(design.tables)))
    parts = [await sample(work.conn, work.migration, share * len(design.tables))] if design.tables else []
    for shape in shapes:
        found = await shape.sample(work.conn, share)
        parts += [found] if found else []
    timed = max((each for each in parts if each.old_ms is not None), key=lambda each: each.samples, default=None)
    return ShadowResult(
        comparable=any(each.comparable for each in parts),
        samples=sum(each.samples for each in parts),
        mismatches=sum(each.mismatches for each in parts),
        old_ms=timed.old_ms if timed else None,
        new_ms=timed.new_ms if timed else None,
        examples=[example for each in parts for example in each.examples][:20],
    )
