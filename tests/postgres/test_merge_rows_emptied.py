"""An old client empties the source of a merge: nobody reads a group that has gone, and the client waits for nobody."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel
from support.merging import Merge, create_lines, totals
from support.mutants import Clause, must_fail

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def m(conn: Connection) -> Merge:
    """Give a published merge of ten invoices of three lines each."""
    await create_lines(conn, 10)
    merge = Merge(conn, totals())
    await merge.published()
    return merge


async def test_an_old_client_that_empties_the_source_does_not_wait_for_who_holds_the_target(m: Merge, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as vacuum:
        await vacuum.execute(f"LOCK TABLE {m.design.target_label} IN SHARE UPDATE EXCLUSIVE MODE".encode())
        await m.conn.execute("SET statement_timeout = '1s'")  # it would wait for ever
        await m.conn.execute("TRUNCATE public.lines")
        await m.conn.execute("RESET statement_timeout")
        assert await m.one("SELECT count(*) FROM public_v2.totals") == (0,)
        await m.conn.execute("INSERT INTO public.lines (invoice_id, amount) VALUES (7, 5)")
        assert await m.one("SELECT lines, total, last FROM public_v2.totals") == (1, 5, None)
        assert await m.parity() == (1, 0)
    await m.drain()
    assert await m.stored() == await m.parity() == (1, 0)


async def test_a_client_that_empties_it_by_an_old_snapshot_forgets_no_group(m: Merge, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as old, await psycopg.AsyncConnection.connect(dsn) as vacuum:
        await old.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await old.execute("SELECT FROM pg_class")
        await m.conn.execute("INSERT INTO public.lines (invoice_id) VALUES (100)")
        await m.drain()
        await vacuum.execute(f"LOCK TABLE {m.design.target_label} IN SHARE UPDATE EXCLUSIVE MODE".encode())
        emptying = asyncio.create_task(old.execute("TRUNCATE public.lines"))
        async with asyncio.timeout(10):
            blocked = "SELECT cardinality(pg_blocking_pids(%s))"
            while not emptying.done() and await m.one(blocked, old.info.backend_pid) == (0,):
                await asyncio.sleep(0.01)
        await vacuum.rollback()
        await emptying
        await old.commit()
    assert await m.parity() == (0, 0), "a group that nobody sees in the source"


WAITS = Clause("TRUNCATE does not wait for the target", "merging", "truncate", " NOWAIT")
NOT_NOTED = Clause(
    "the target's groups are noted", "merging", "truncate", "FROM {target} AS s", "FROM {target} AS s WHERE false"
)
BY_ANY_SNAPSHOT = Clause(
    "they are noted by a snapshot that shows them",
    "merging",
    "truncate",
    "IN ('repeatable read', 'serializable')",
    "= ''",
)


@pytest.mark.parametrize(
    ("scenario", "mutant", "says"),
    [
        (
            test_an_old_client_that_empties_the_source_does_not_wait_for_who_holds_the_target,
            WAITS,
            "canceling statement due to statement timeout",
        ),
        (
            test_an_old_client_that_empties_the_source_does_not_wait_for_who_holds_the_target,
            NOT_NOTED,
            "(10,) == (0,)",
        ),
        (test_a_client_that_empties_it_by_an_old_snapshot_forgets_no_group, BY_ANY_SNAPSHOT, "nobody sees"),
    ],
    ids=lambda value: value.name if isinstance(value, Clause) else "",
)
async def test_truncate_without_a_rule_is_seen_to_fail(
    dsn: str, conn: Connection, scenario: Any, mutant: Clause, says: str
) -> None:
    async def changed() -> None:
        await create_lines(conn, 10)
        merge = Merge(conn, totals())
        await merge.published()
        await scenario(merge, dsn)

    await must_fail(changed(), mutant, says=says)
