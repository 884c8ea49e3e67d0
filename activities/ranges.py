"""Into how many ranges of pages a table is cut for its backfill."""

from itertools import pairwise

RANGE_PAGES = 16_384
"""A table larger than this for each range gets more ranges than are filled at once, so that their number can be raised: 128 MB."""
ALONE_PAGES = 65_536
"""The same where one session fills them one after another: each begins 0.17 s after the one before, a tenth of what 128 MB take."""
MOST_RANGES = 16
LEAST_PAGES = 16


def ranges_for(size: int, wide: int) -> int:
    """Tell into how many ranges so many pages are cut, where so many are filled at once.

    A multiple of those, or the last ones would be filled alone.
    """
    wanted = max(wide, min(MOST_RANGES, size // (RANGE_PAGES if wide > 1 else ALONE_PAGES)))
    return min(-(-wanted // wide) * wide, max(1, size // LEAST_PAGES))


def bounds(size: int, wide: int) -> list[tuple[int, int]]:
    """Cut so many pages into ranges: the first page of each, and the first one after it."""
    parts = ranges_for(size, wide)
    return list(pairwise(size * number // parts for number in range(parts + 1)))
