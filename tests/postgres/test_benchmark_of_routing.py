"""What the benchmark of routing asks and whom it has follow, beside a route that the engine would have made."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.routes import Admin, add_route, set_up

from benchmarks.common import decisions
from benchmarks.common.followers import TASKS, THREADS, followers
from benchmarks.common.users import NAME


@pytest.fixture
def admin(dsn: str) -> Iterator[Admin]:
    with set_up(dsn) as conn:
        add_route(conn, NAME)
        conn.execute("UPDATE pgduet.route SET read_percent = %s", [decisions.NEW_PERCENT])
        yield conn


def test_all_who_are_asked_decide_what_they_were_set_up_for(admin: Admin, dsn: str, tmp_path: Path) -> None:
    with decisions.subjects(dsn, tmp_path, openfeature=True, launchdarkly=True) as asked:
        assert {name: each.took(7).count for name, each in asked.items()} == {
            name: each.times for name, each in asked.items()
        }
        assert set(asked) >= {decisions.PATH, decisions.PROVIDER, decisions.LAUNCHDARKLY, decisions.QUERY}
    admin.execute("UPDATE pgduet.route SET read_percent = 90")
    with (
        pytest.raises(decisions.Misrouted, match="90 % of the keys"),
        decisions.subjects(dsn, tmp_path, openfeature=False, launchdarkly=False),
    ):
        pass


async def test_followers_of_both_kinds_tell_when_they_answered_by_a_change(admin: Admin, dsn: str) -> None:
    async with followers(dsn, 2) as following:
        with admin.transaction():
            admin.execute("UPDATE pgduet.route SET epoch = epoch + 1, changed_at = clock_timestamp()")
            admin.execute("NOTIFY pgduet_route")
        while admin.execute("SELECT FROM pgduet.client WHERE epoch = 2").rowcount < 2:
            await asyncio.sleep(0.02)
        (at,) = admin.execute("SELECT extract(epoch FROM changed_at)::float8 AS at FROM pgduet.route").fetchall()
    assert {kind: len(noted) for kind, noted in following.noted.items()} == {THREADS: 1, TASKS: 1}
    for noted in (*following.noted[THREADS], *following.noted[TASKS]):
        assert [epoch for epoch, _ in noted] == [1, 2]
        assert noted[0][1] < at["at"] < noted[1][1]
