"""The order in which the suite runs: shares as xdist's `worksteal` cuts them, each with its part of what takes long at its head."""

import pytest
from support.order import dealt


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("early", "others"), [(5, 40), (1, 9), (0, 7), (9, 2)])
def test_every_share_begins_with_its_part_and_nothing_is_lost(workers: int, early: int, others: int) -> None:
    long = [f"long {number}" for number in range(early)]
    ordered = dealt(long, [f"short {number}" for number in range(others)], workers)
    assert sorted(ordered) == sorted(long + [f"short {number}" for number in range(others)])
    if others < early:
        return
    began = 0
    for worker in range(workers):
        share = ordered[began : (began := began + (len(ordered) - began) // (workers - worker))]
        part = long[worker::workers]
        assert share[: len(part)] == part
        assert not set(share[len(part) :]) & set(long)
