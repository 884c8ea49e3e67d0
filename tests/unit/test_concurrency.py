"""Giving way to clients: nobody there, clients it does not slow down, clients it does, and the least that is left to it."""

from collections.abc import Callable

import pytest

from pgduet.postgres.concurrency import (
    FIRST_SHARE,
    LEAST_SHARE,
    Concurrency,
    Stretch,
)

LIMIT = 1.25
Server = Callable[[Concurrency], int]


def nobody(_: Concurrency) -> int:
    return 0


def untouched(_: Concurrency) -> int:
    """Four statements at a time, whatever the backfill does."""
    return 4


def crowded_beyond(share: float) -> Server:
    """Clients who take three times as long while the backfill works for more than a share of its time."""

    def running(clients: Concurrency) -> int:
        return 12 if clients.stretch is Stretch.WORKING and clients.share > share else 4

    return running


def watched(server: Server, seconds: float, clients: Concurrency | None = None, began_s: float = 0.0) -> Concurrency:
    """Look for so long; gives what was learned."""
    made, now_s = clients or Concurrency(), began_s
    while now_s < began_s + seconds:
        made.note(server(made), now_s, LIMIT)
        now_s += made.look_s
    return made


def test_where_nobody_is_at_work_it_never_rests() -> None:
    alone = Concurrency()
    for look in range(1000):
        alone.note(0, look / 20, LIMIT)
        assert (alone.share, alone.rests_s(look / 20)) == (1.0, 0.0)


def test_a_single_statement_now_and_then_is_nobody() -> None:
    seldom = Concurrency()
    for look in range(1000):
        seldom.note(int(look % 20 == 19), look / 20, LIMIT)
    assert seldom.stretch is Stretch.ALONE


def test_with_clients_at_work_it_rests_first_and_then_begins_slowly() -> None:
    clients = watched(untouched, 0.2)
    assert clients.stretch is Stretch.RESTING
    assert 0 < clients.rests_s(0.2) <= 1.0
    clients = watched(untouched, 1.2)
    assert (clients.stretch, clients.share, clients.usual) == (Stretch.WORKING, FIRST_SHARE, 4.0)


def test_clients_who_come_later_are_seen_within_a_second() -> None:
    clients = watched(nobody, 60)
    assert watched(untouched, 1, clients, 60).stretch is not Stretch.ALONE


def test_clients_it_does_not_slow_down_leave_it_its_full_rate() -> None:
    clients = watched(untouched, 60)
    assert (clients.share, clients.gives_way, clients.beside) == (1.0, False, 4.0)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_it_keeps_to_the_share_that_clients_bear(share: float) -> None:
    clients, now_s, beyond, looks = watched(crowded_beyond(share), 120), 120.0, 0, 0
    while now_s < 420:
        clients.note(crowded_beyond(share)(clients), now_s, LIMIT)
        beyond += clients.stretch is Stretch.WORKING and clients.share > share
        looks += clients.stretch is Stretch.WORKING
        now_s += clients.look_s
        assert clients.share <= 1.5 * share
        assert clients.share >= share / 4
    assert beyond / looks < 0.1, "where clients are slowed down it goes back at once"


def test_clients_it_cannot_but_slow_down_leave_it_the_least_share() -> None:
    assert watched(crowded_beyond(0.0), 300).share == LEAST_SHARE


def test_more_clients_are_no_reason_to_give_way() -> None:
    """What grows by itself grows while it rests as well."""
    clients = watched(untouched, 60)
    clients = watched(lambda _: 40, 120, clients, 60)
    assert clients.share == 1.0


def test_when_clients_leave_it_goes_on_at_its_full_rate() -> None:
    clients = watched(crowded_beyond(0.0), 120)
    assert clients.gives_way
    clients = watched(nobody, 60, clients, 120)
    assert (clients.stretch, clients.share) == (Stretch.ALONE, 1.0)
