"""Into how many ranges a table is cut: as many as are filled at once, or a multiple of those."""

import pytest

from pgduet.activities.ranges import ALONE_PAGES, LEAST_PAGES, MOST_RANGES, RANGE_PAGES, ranges_for


@pytest.mark.parametrize(
    ("pages", "wide", "ranges"),
    [
        (0, 2, 1),
        (LEAST_PAGES, 2, 1),
        (2 * LEAST_PAGES, 2, 2),
        (2 * ALONE_PAGES - 1, 1, 1),
        (2 * ALONE_PAGES, 1, 2),
        (10_000 * RANGE_PAGES, 1, MOST_RANGES),
        (3 * RANGE_PAGES - 1, 2, 2),
        (3 * RANGE_PAGES, 2, 4),
        (3 * RANGE_PAGES, 3, 3),
        (10_000 * RANGE_PAGES, 2, MOST_RANGES),
        (10_000 * RANGE_PAGES, 3, 18),
        (10_000 * RANGE_PAGES, 64, 64),
    ],
)
def test_no_range_is_left_to_be_filled_alone(pages: int, wide: int, ranges: int) -> None:
    assert ranges_for(pages, wide) == ranges
