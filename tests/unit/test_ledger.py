"""The ledger: what must be stored is known exactly, and every difference has a name."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import pytest

from pgduet.local.doors import BASE, BASE_AFTER, V1, V2, Door, Flight
from pgduet.local.ledger import Findings, Ledger, compare, compare_notes

FLIGHT = Flight(datetime(2013, 7, 9, 15, 45), "N123", 12, "gate 7")  # noqa: DTZ001  local time, as in the data
SEEN_OLD = replace(FLIGHT, gate_note=None)


def row_of(door: Door, flight: Flight) -> list[object]:
    if door.is_new:
        return [1, flight.tailnum, flight.arr_delay, flight.departure, flight.gate_note]
    return [1, flight.tailnum, flight.arr_delay, *door.when(flight)]


@pytest.mark.parametrize("door", [BASE, V1, V2, BASE_AFTER])
def test_a_flight_comes_back_as_its_version_shows_it(door: Door) -> None:
    assert door.flight(row_of(door, FLIGHT)) == door.seen(FLIGHT)
    assert (door.seen(FLIGHT) == FLIGHT) is door.is_new


@pytest.mark.parametrize(("clock", "stored"), [((0, 0), 0), ((0, 5), 5), ((5, 15), 515), ((23, 59), 2359)])
def test_the_old_version_writes_the_time_of_day_as_one_number(clock: tuple[int, int], stored: int) -> None:
    flight = replace(FLIGHT, departure=datetime(2013, 2, 28, *clock))  # noqa: DTZ001
    assert BASE.when(flight) == [2013, 2, 28, stored]
    assert BASE.flight(row_of(BASE, flight)).departure == flight.departure


def test_a_door_names_its_schema_or_leaves_it_to_the_search_path() -> None:
    assert b'FROM "public_v1"."flights"' in V1.query("read")
    assert b'FROM "flights"' in V1.by_search_path().query("read")
    assert b"scheduled_departure" in V2.query("departure")
    assert b"sched_dep_time" in BASE.query("departure")


@pytest.mark.parametrize("door", [BASE, V1, V2, BASE_AFTER])
def test_as_many_parameters_as_placeholders(door: Door) -> None:
    assert door.query("insert").count(b"%s") == len(door.values(FLIGHT))
    assert door.query("departure").count(b"%s") == len(door.when(FLIGHT)) + 1


def test_what_is_as_acknowledged_has_no_findings() -> None:
    expected = {1: FLIGHT, 2: None}
    assert compare(expected, {1: FLIGHT}, V2) == []
    assert compare(expected, {1: SEEN_OLD}, BASE) == []
    assert Findings(2).exact


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({}, "row 1 is missing"),
        ({1: FLIGHT, 2: FLIGHT}, "row 2 was deleted and is there"),
        ({1: replace(FLIGHT, arr_delay=13)}, "row 1 is"),
        ({1: SEEN_OLD}, "row 1 is"),
    ],
)
def test_every_lost_write_is_named(found: Mapping[int, Flight], told: str) -> None:
    [wrong] = compare({1: FLIGHT, 2: None}, found, V2)
    assert wrong.startswith(told)


def test_a_note_is_invisible_through_the_old_version_but_not_a_lost_departure() -> None:
    moved = replace(SEEN_OLD, departure=datetime(2013, 1, 1))  # noqa: DTZ001
    assert len(compare({1: FLIGHT}, {1: moved}, V1)) == 1


def test_the_archive_must_hold_every_note_and_no_other() -> None:
    expected = {1: FLIGHT, 2: SEEN_OLD, 3: None}
    assert compare_notes(expected, {1: "gate 7"}) == []
    assert compare_notes(expected, {1: "gate 7", 3: "of a row that was deleted since"}) == []
    assert "row 1 is None" in compare_notes(expected, {})[0]
    assert "row 1 is 'gate 8'" in compare_notes(expected, {1: "gate 8"})[0]
    assert compare_notes(expected, {1: "gate 7", 2: "?"}) == ["the archive has a note of row 2 that nobody wrote"]
    assert compare_notes(expected, {1: "gate 7", 9: "?"}) == ["the archive has a note of row 9 that nobody wrote"]


def test_only_acknowledged_writes_count_and_the_last_one_stands() -> None:
    ledger = Ledger()
    ledger.adopt(1, SEEN_OLD)
    assert ledger.writes == 0
    ledger.wrote(1, FLIGHT)
    ledger.wrote(7, FLIGHT, inserted=True)
    ledger.wrote(7, None)
    assert ledger.writes == 3
    assert ledger.rows == {1: FLIGHT, 7: None}
    assert ledger.living() == [1]
    assert ledger.inserted == set()


def test_a_row_in_doubt_is_counted_and_not_compared() -> None:
    ledger = Ledger()
    ledger.wrote(7, FLIGHT, inserted=True)
    ledger.doubt([7])
    assert ledger.rows == {}
    assert ledger.in_doubt == {7}
    assert ledger.living() == []


def test_many_findings_are_told_in_one_line() -> None:
    told = Findings(9, tuple(f"row {key} is missing" for key in range(8))).told()
    assert told.startswith("row 0 is missing; row 1")
    assert told.endswith("and 3 more")
