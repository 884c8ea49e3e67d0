"""New clients who write merged rows before contract: each write is one more row for old clients, or is refused."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors
from support.merging import Merge, create_lines, totals
from support.mutants import Clause, must_fail
from support.shadow_clients import errors_in
from support.shadows import over

from pgduet.operations.merge_rows_design import AddedColumn, MergeDesign

Connection = psycopg.AsyncConnection[Any]
CLIENTS, LONG_S = 16, 2.0


def written(**changes: Any) -> MergeDesign:
    """Design a merge that new clients write: what they add to the total is a line's amount, the last note its note."""
    base = totals()
    return base.model_copy(
        update={
            "columns": base.columns[1:],
            "adds": (
                AddedColumn(name="amount", type="integer", down=over("t.total")),
                AddedColumn(name="note", type="text", down=over("t.last")),
            ),
            **changes,
        }
    )


async def opened(conn: Connection, invoices: int = 10) -> Merge:
    """Publish a merge that can be written: invoices of three lines, which come to 6."""
    await create_lines(conn, invoices)
    m = Merge(conn, written())
    await m.published()
    return m


@pytest.fixture
async def m(conn: Connection) -> Merge:
    """Give one of ten invoices."""
    return await opened(conn)


async def lines(m: Merge, invoice: int) -> list[tuple[Any, ...]]:
    """Read an invoice's lines as an old client."""
    query = "SELECT amount, note FROM public.lines WHERE invoice_id = %s ORDER BY id"
    return await (await m.conn.execute(query, (invoice,))).fetchall()


async def test_a_write_is_one_more_row_for_old_clients(m: Merge) -> None:
    conn = m.conn
    assert await m.one("INSERT INTO public_v2.totals VALUES (99, 5, 'x') RETURNING total") == (5,)
    assert await lines(m, 99) == [(5, "x")]
    assert await m.one("UPDATE public_v2.totals SET total = total + 4 WHERE id = 1 RETURNING id, total") == (1, 10)
    assert await lines(m, 1) == [(1, "n1"), (2, "n2"), (3, "n3"), (4, "n3")]
    await conn.execute("UPDATE public_v2.totals SET total = 1, last = 'z' WHERE id = 1")
    assert await m.one("SELECT total, last FROM public_v2.totals WHERE id = 1") == (1, "z")
    assert (await lines(m, 1))[-1] == (-9, "z")
    assert (await conn.execute("UPDATE public_v2.totals SET total = total WHERE id = 2")).rowcount == 1
    assert len(await lines(m, 2)) == 3  # nothing was written
    assert (await conn.execute("UPDATE public_v2.totals SET total = 1 WHERE id = 1234")).rowcount == 0
    assert (await conn.execute("UPDATE public_v2.totals SET total = total + 1 WHERE id IN (3, 4, 5)")).rowcount == 3
    query = "UPDATE public_v2.totals t SET total = t.total + v.more FROM (VALUES (6, 10), (7, 20)) v(id, more) WHERE t.id = v.id"
    assert (await conn.execute(query.encode())).rowcount == 2
    assert await m.one("SELECT sum(total)::int FROM public_v2.totals") == (5 + 1 + 8 * 6 + 6 + 3 + 30,)
    assert await m.parity() == (11, 0)
    await m.drain()
    assert await m.parity() == (11, 0)
    assert await m.one("SELECT current_setting(%s, true)", m.design.flag) in {("",), (None,)}


@pytest.mark.parametrize(
    ("statement", "refused", "says"),
    [
        ("INSERT INTO public_v2.totals VALUES (1, 5, 'x')", errors.UniqueViolation, '"totals_pkey"'),
        ("DELETE FROM public_v2.totals WHERE id = 1", errors.ObjectNotInPrerequisiteState, "cannot be deleted"),
        ("UPDATE public_v2.totals SET id = 77 WHERE id = 1", errors.ObjectNotInPrerequisiteState, "another key"),
        ("UPDATE public_v2.totals SET last = 'a' WHERE id = 1", errors.DataException, "no equivalent in"),
        ("UPDATE public_v2.totals SET total = NULL WHERE id = 1", errors.DataException, "no equivalent in"),
        (
            "UPDATE public_v2.totals SET total = 3000000000 WHERE id = 1",
            errors.NumericValueOutOfRange,
            "integer out of range",
        ),
    ],
)
async def test_what_one_more_row_cannot_say_is_refused_and_nothing_is_written(
    m: Merge, statement: str, refused: type[psycopg.Error], says: str
) -> None:
    with pytest.raises(refused, match=says):
        await m.conn.execute(statement.encode())
    assert await m.one("SELECT count(*) FROM public.lines") == (30,)
    assert await m.parity() == (10, 0)


async def test_rows_are_counted_where_a_write_says_that_there_is_one_more(conn: Connection) -> None:
    await create_lines(conn, 3)
    m = Merge(conn, written(columns=totals().columns))
    await m.published()
    await conn.execute("UPDATE public_v2.totals SET lines = lines + 1, total = total + 5 WHERE id = 1")
    await conn.execute("INSERT INTO public_v2.totals VALUES (9, 1, 5, 'x')")
    for statement in (
        "UPDATE public_v2.totals SET total = total + 5 WHERE id = 1",
        "INSERT INTO public_v2.totals VALUES (10, 2, 5, 'x')",
    ):
        with pytest.raises(errors.DataException, match="no equivalent"):
            await conn.execute(statement.encode())
    assert await m.one("SELECT lines, total FROM public_v2.totals WHERE id = 1") == (4, 11)
    assert await m.parity() == (4, 0)


async def sets_one_after_the_other(dsn: str, m: Merge) -> None:
    """Two new clients set the same total; the second waits for the first, and computes from what that wrote."""
    async with await psycopg.AsyncConnection.connect(dsn) as one, await psycopg.AsyncConnection.connect(dsn) as other:
        await one.execute("UPDATE public_v2.totals SET total = 50 WHERE id = 1")
        later = asyncio.create_task(
            other.execute("UPDATE public_v2.totals SET total = 60 WHERE id = 1 RETURNING total")
        )
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
        for _ in range(50):
            if later.done() or (await m.one(waiting, other.info.backend_pid))[0]:
                break
            await asyncio.sleep(0.02)
        await one.commit()
        assert await (await later).fetchone() == (60,)
        await other.commit()
    assert await m.one("SELECT total FROM public_v2.totals WHERE id = 1") == (60,), "a write was lost"


async def test_two_new_clients_who_set_the_same_total_come_one_after_the_other(dsn: str, m: Merge) -> None:
    await sets_one_after_the_other(dsn, m)


UNLOCKED = Clause(
    "who writes a group locks it first",
    "merging",
    "lock_group",
    "  INSERT INTO {locks} AS l ({key}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET _pgduet_turn = l._pgduet_turn + 1;\n",
)
SNAPSHOT = Clause(
    "who writes reads the group by a newer snapshot",
    "merging",
    "writing",
    "CASE WHEN TG_WHEN = 'BEFORE' THEN 'on' ELSE '' END",
    "''",
)


@pytest.mark.parametrize("mutant", [UNLOCKED, SNAPSHOT], ids=lambda mutant: mutant.name)
async def test_without_the_rule_one_of_them_is_lost(dsn: str, conn: Connection, mutant: Clause) -> None:
    async def scenario() -> None:
        await sets_one_after_the_other(dsn, await opened(conn))

    await must_fail(scenario(), mutant, says="a write was lost")


async def test_nobody_waits_for_an_old_client_who_writes_the_group(dsn: str, m: Merge) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as old, await psycopg.AsyncConnection.connect(dsn) as new:
        await old.execute("UPDATE public.lines SET amount = amount + 1 WHERE invoice_id = 1")
        await old.execute("DELETE FROM public.lines WHERE invoice_id = 2")
        await new.execute("SET lock_timeout = '500ms'")
        await new.execute("UPDATE public_v2.totals SET total = 50 WHERE id = 1")
        await new.execute("UPDATE public_v2.totals SET total = total + 4 WHERE id = 2")
        await new.commit()
        await old.commit()
    # As if the new client had come first.
    assert await m.one("SELECT total FROM public_v2.totals WHERE id = 1") == (53,)
    assert await m.one("SELECT total FROM public_v2.totals WHERE id = 2") == (4,)
    assert await m.parity() == (10, 0)


async def test_a_client_with_an_older_snapshot_is_told_to_try_again(dsn: str, m: Merge) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as new:
        await new.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await new.execute("SELECT FROM public_v2.totals")
        await m.conn.execute("UPDATE public_v2.totals SET total = 50 WHERE id = 1")
        with pytest.raises(errors.SerializationFailure):
            await new.execute("UPDATE public_v2.totals SET total = total + 1 WHERE id = 1")
        await new.rollback()
        await new.execute("UPDATE public_v2.totals SET total = total + 1 WHERE id = 1")
        await new.commit()
    assert await m.one("SELECT total FROM public_v2.totals WHERE id = 1") == (51,)


async def test_reads_and_writes_of_one_group_go_by_indexes(m: Merge) -> None:
    await m.conn.execute("INSERT INTO public.lines (invoice_id) SELECT i % 2000 FROM generate_series(1, 20000) i")
    await m.drain()
    await m.conn.execute("ANALYZE public.lines")
    for statement in (
        "SELECT * FROM public_v2.totals WHERE id = 7",
        "UPDATE public_v2.totals SET total = 1 WHERE id = 7",
    ):
        rows = await (await m.conn.execute(f"EXPLAIN {statement}".encode())).fetchall()
        plan = "\n".join(row[0] for row in rows)
        assert "Seq Scan on lines" not in plan, plan
        assert f"{m.design.physical}_pkey" in plan, plan
    rows = await (await m.conn.execute("EXPLAIN (ANALYZE) SELECT * FROM public_v2.totals WHERE id = 7")).fetchall()
    assert any("never executed" in row[0] and "merge_group" in row[0] for row in rows), rows


async def test_an_error_leaves_no_reader_behind_that_locks(m: Merge) -> None:
    async with m.conn.transaction():
        for _ in range(2):
            with pytest.raises(errors.DataException):
                async with m.conn.transaction():
                    await m.conn.execute("UPDATE public_v2.totals SET last = 'a' WHERE id = 1")
            assert await m.one("SELECT coalesce(current_setting(%s, true), '')", m.design.flag) == ("",)
        await m.conn.execute("SELECT * FROM public_v2.totals")
    assert await m.one(f"SELECT count(*) FROM {m.design.locks.as_string(None)}") == (0,)


async def test_who_may_only_read_can_neither_write_nor_lock(m: Merge) -> None:
    await m.conn.execute(
        "DO $$ BEGIN IF to_regrole('pgduet_reader') IS NULL THEN CREATE ROLE pgduet_reader NOLOGIN; END IF; END $$"
    )
    await m.conn.execute(
        "GRANT USAGE ON SCHEMA public_v2 TO pgduet_reader; GRANT SELECT ON public_v2.totals TO pgduet_reader"
    )
    async with m.conn.transaction():
        await m.conn.execute("SET LOCAL ROLE pgduet_reader")
        assert await m.one("SELECT total FROM public_v2.totals WHERE id = 1") == (6,)
        for statement in (
            "UPDATE public_v2.totals SET total = 1 WHERE id = 1",
            'SELECT * FROM pgduet_archive."merge_group_public._pgduet_totals_lines"(1)',
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                async with m.conn.transaction():
                    await m.conn.execute(statement.encode())


async def test_from_contract_on_the_rows_are_written_as_they_are(m: Merge) -> None:
    await m.conn.execute("PREPARE more AS UPDATE public_v2.totals SET total = total + 1 WHERE id = $1")
    await m.conn.execute("EXECUTE more(1)")
    await m.finish()
    await m.conn.execute("EXECUTE more(1)")
    assert await m.one("SELECT total FROM public.totals WHERE id = 1") == (8,)
    await m.conn.execute("DELETE FROM public_v2.totals WHERE id = 1")
    left = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'merge%%'"
    assert await m.one(left) == (0,)


async def test_everything_can_be_taken_back_twice(m: Merge) -> None:
    await m.conn.execute("UPDATE public_v2.totals SET total = total + 1 WHERE id = 1")
    await m.withdraw()
    await m.withdraw()
    assert await m.one("SELECT sum(amount)::int FROM public.lines WHERE invoice_id = 1") == (7,)
    assert await m.one("SELECT count(*) FROM pg_proc WHERE proname LIKE 'merge%%'") == (0,)


async def _client(dsn: str, number: int, keys: int, ledger: Counter[str], stop: Callable[[], bool]) -> None:
    """Write increments, half of the clients by either version; every fourth write is of two groups, in whatever order."""
    chance = random.Random(number)
    one_line = "SELECT id FROM public.lines WHERE invoice_id = %s ORDER BY random() LIMIT 1"
    statements = (
        f"UPDATE public.lines SET amount = amount + 1 WHERE id = ({one_line})",
        "UPDATE public_v2.totals SET total = total + 1 WHERE id = %s",
    )
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        while not stop():
            new = number % 2
            try:
                done = (await conn.execute(statements[new].encode(), (chance.randint(1, keys),))).rowcount
                ledger["added"] += done
                ledger["new" if new else "old"] += 1
                query = (
                    "SELECT (SELECT total FROM public_v2.totals WHERE id = %(key)s) IS DISTINCT FROM"
                    " (SELECT sum(amount) FROM public.lines WHERE invoice_id = %(key)s)"
                )
                row = await (await conn.execute(query, {"key": chance.randint(1, keys)})).fetchone()
                assert row is not None
                ledger["read wrong"] += row[0]
            except psycopg.Error as error:
                ledger[f"{type(error).__name__}: {'new' if new else 'old'}"] += 1


@asynccontextmanager
async def _both(dsn: str, keys: int) -> Any:
    ledger: Counter[str] = Counter()
    stopped = False
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(_client(dsn, number, keys, ledger, lambda: stopped))
        try:
            yield ledger
        finally:
            stopped = True


@pytest.mark.parametrize("keys", [5, 4096])
async def test_a_ledger_of_acknowledged_increments_through_both_versions(dsn: str, conn: Connection, keys: int) -> None:
    m = await opened(conn, keys)
    before = (await m.one("SELECT sum(total)::int FROM public_v2.totals"))[0]
    async with _both(dsn, keys) as ledger:
        loop = asyncio.get_running_loop()
        ends = loop.time() + LONG_S
        while loop.time() < ends:
            await m.drain(50)
    assert errors_in(ledger) == {}
    assert ledger["read wrong"] == 0
    assert min(ledger["old"], ledger["new"]) > 100
    assert await m.one("SELECT sum(total)::int FROM public_v2.totals") == (before + ledger["added"],)
    assert await m.one("SELECT sum(amount)::int FROM public.lines") == (before + ledger["added"],)
    assert await m.parity() == (keys, 0)
    await m.drain()
    assert await m.parity() == (keys, 0)
