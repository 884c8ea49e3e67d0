"""Which ranges of a backfill may run: so many at once, the first come first."""

from pgduet.workflows.slots import Slots


def test_as_many_begin_as_there_are_slots() -> None:
    slots = Slots(2)
    for number in (0, 1):
        assert slots.free
        slots.enter(number)
    assert not slots.free
    assert slots.moves() == []
    slots.leave(0)
    assert slots.free


def test_fewer_slots_hold_those_that_began_last_until_others_are_done() -> None:
    slots = Slots(3)
    for number in (4, 2, 7):
        slots.enter(number)
    slots.wide = 1
    assert slots.moves() == [(2, "pause"), (7, "pause")]
    assert slots.moves() == [], "each is told once"
    assert not slots.free
    slots.leave(4)
    assert slots.moves() == [(2, "resume")]
    slots.leave(2)
    assert slots.moves() == [(7, "resume")]
    assert slots.held == set()


def test_more_slots_let_held_ranges_go_on_before_others_begin() -> None:
    slots = Slots(2)
    slots.enter(0)
    slots.enter(1)
    slots.wide = 1
    slots.moves()
    slots.wide = 3
    assert slots.moves() == [(1, "resume")]
    assert slots.free


def test_a_held_range_that_ends_all_the_same_is_forgotten() -> None:
    slots = Slots(2)
    slots.enter(0)
    slots.enter(1)
    slots.wide = 1
    slots.moves()
    slots.leave(1)
    assert (slots.held, slots.moves()) == (set(), [])
