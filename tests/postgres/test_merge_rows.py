"""Rows that are merged: what old clients write is what the new version reads, statement by statement, on the rendered SQL."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors, sql
from support.merging import PLAN, Merge, create_lines, totals
from support.mutants import Clause, must_fail

from pgduet.operations import merge_rows_rows
from pgduet.operations.merge_rows_design import GroupKey

Connection = psycopg.AsyncConnection[Any]
READ = "SELECT lines, total, last FROM public_v2.totals WHERE id = %s"


@pytest.fixture
async def m(conn: Connection) -> Merge:
    """Give a published merge of ten invoices of three lines each."""
    await create_lines(conn, 10)
    merge = Merge(conn, totals())
    await merge.published()
    assert await merge.stored() == (10, 0)
    return merge


async def shown(m: Merge, invoice: int) -> tuple[Any, ...]:
    """Read an invoice as a new client: lines, total, last note."""
    row = await (await m.conn.execute(READ.encode(), (invoice,))).fetchone()
    return tuple(row) if row else ()


@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_every_way_an_old_client_writes_is_read_by_new_clients_at_once(m: Merge, role: str) -> None:
    conn = m.conn
    await conn.execute(f"SET session_replication_role = {role}".encode())
    await conn.execute("INSERT INTO public.lines (invoice_id, amount, note) VALUES (1, 10, 'x'), (100, 5, NULL)")
    assert (await shown(m, 1), await shown(m, 100)) == ((4, 16, "x"), (1, 5, None))
    await conn.execute("UPDATE public.lines SET amount = 7 WHERE invoice_id = 2")
    assert await shown(m, 2) == (3, 21, "n3")
    await conn.execute("DELETE FROM public.lines WHERE invoice_id = 3 AND amount = 3")
    assert await shown(m, 3) == (2, 3, "n2")
    await conn.execute("UPDATE public.lines SET invoice_id = 300 WHERE invoice_id = 4 AND amount = 1")
    assert (await shown(m, 4), await shown(m, 300)) == ((2, 5, "n3"), (1, 1, "n1"))
    await conn.execute("UPDATE public.lines SET invoice_id = 8 WHERE invoice_id = 5")
    assert (await shown(m, 5), await shown(m, 8)) == ((), (6, 12, "n3"))
    await conn.execute(
        "INSERT INTO public.lines (id, invoice_id) SELECT id, 6 FROM public.lines WHERE invoice_id = 6"
        " ON CONFLICT (id) DO UPDATE SET amount = 44"
    )
    assert await shown(m, 6) == (3, 132, "n3")
    async with conn.cursor().copy("COPY public.lines (invoice_id, amount) FROM STDIN") as copy:
        await copy.write("500\t5\n500\t6\n")
    assert await shown(m, 500) == (2, 11, None)
    await conn.execute(
        "MERGE INTO public.lines l USING (VALUES (7), (501)) v(invoice) ON l.invoice_id = v.invoice"
        " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (invoice_id, amount) VALUES (v.invoice, 9)"
    )
    assert (await shown(m, 7), await shown(m, 501)) == ((), (1, 9, None))
    assert await m.parity() == (12, 0)
    assert await m.drain() > 0
    assert await m.stored() == (12, 0)
    await conn.execute("UPDATE public.lines SET amount = 1")
    await conn.execute("TRUNCATE public.lines")
    assert await m.one("SELECT count(*) FROM public_v2.totals") == (0,)
    await m.drain()
    assert await m.stored() == await m.parity() == (0, 0)


async def test_an_update_of_what_no_merged_row_is_made_from_notes_nothing(m: Merge) -> None:
    await m.conn.execute("ALTER TABLE public.lines ADD COLUMN other int")
    await m.conn.execute("UPDATE public.lines SET other = 1, amount = amount")
    assert await m.notes() == 0
    await m.conn.execute("UPDATE public.lines SET note = NULL WHERE invoice_id = 1")
    assert await m.notes() == 3
    assert await shown(m, 1) == (3, 6, None)


async def test_a_transaction_reads_its_own_writes_and_others_read_them_once_committed(m: Merge, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as old, await psycopg.AsyncConnection.connect(dsn) as frozen:
        await frozen.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await frozen.execute("SELECT")
        before = await (await frozen.execute(READ.encode(), (1,))).fetchone()
        await old.execute("UPDATE public.lines SET amount = 100 WHERE invoice_id = 1")
        own = await (await old.execute(READ.encode(), (1,))).fetchone()
        assert own == (3, 300, "n3")
        assert await shown(m, 1) == (3, 6, "n3")
        assert await m.drain() == 0
        await old.commit()
        assert await shown(m, 1) == (3, 300, "n3")
        assert await m.drain() == 3
        assert await shown(m, 1) == (3, 300, "n3")
        # The drain was after that snapshot: it reads what was true then.
        assert before == await (await frozen.execute(READ.encode(), (1,))).fetchone() == (3, 6, "n3")


async def test_a_client_with_an_old_snapshot_writes_without_an_error_and_is_read(m: Merge, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as old:
        await old.set_isolation_level(IsolationLevel.SERIALIZABLE)
        await old.execute("SELECT FROM public.lines")
        await m.conn.execute("UPDATE public.lines SET amount = 50 WHERE invoice_id = 1 AND amount = 1")
        await m.drain()
        await old.execute("UPDATE public.lines SET amount = 60 WHERE invoice_id = 1 AND amount = 2")
        await old.execute("DELETE FROM public.lines WHERE invoice_id = 2")
        await old.commit()
    assert (await shown(m, 1), await shown(m, 2)) == ((3, 113, "n3"), ())
    await m.drain()
    assert await m.stored() == (9, 0)


async def test_a_group_that_vanishes_while_it_is_filled_does_not_come_back(dsn: str, conn: Connection) -> None:
    await create_lines(conn, 10)
    m = Merge(conn, totals())
    await m.expand()
    async with await psycopg.AsyncConnection.connect(dsn) as filling:
        await filling.execute(merge_rows_rows.fill(m.design, 1000, None))
        await conn.execute("DELETE FROM public.lines WHERE invoice_id = 1")
        await m.drain()
        await filling.commit()
    await m.drain()
    assert await m.stored() == (9, 0)


async def test_one_drain_at_a_time(m: Merge, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await m.conn.execute("UPDATE public.lines SET amount = 9")
        await other.execute(merge_rows_rows.drain(m.design, 1))
        assert await m.drain() == -1
        assert await m.parity() == (10, 0)
    assert await m.drain() == 29


async def test_the_filling_goes_by_keys_from_any_of_them_and_can_be_done_twice(conn: Connection) -> None:
    await create_lines(conn, 20, each=7)
    await conn.execute("INSERT INTO public.lines (invoice_id) SELECT 5 FROM generate_series(1, 50)")
    m = Merge(conn, totals())
    await m.expand()
    cursor, rows = await m.one(merge_rows_rows.fill(m.design, 10, None))
    assert (cursor, rows) == ("(2)", 1)
    cursor, rows = await m.one(merge_rows_rows.fill(m.design, 10, "(5)"))
    assert (cursor, rows) == ("(6)", 1)
    assert await m.fill(30) == 18
    assert await m.fill(1) == 0
    assert await m.stored() == (20, 0)


async def test_an_empty_table_is_filled_and_read(conn: Connection) -> None:
    await create_lines(conn, 0)
    m = Merge(conn, totals())
    await m.published()
    await conn.execute("INSERT INTO public.lines (invoice_id, amount) VALUES (1, 1)")
    assert await shown(m, 1) == (1, 1, None)


async def test_a_key_of_two_columns(conn: Connection) -> None:
    await create_lines(conn, 6)
    keys = (
        GroupKey(source="invoice_id", target="first", type="integer"),
        GroupKey(source="amount", target="place", type="integer"),
    )
    m = Merge(conn, totals(key=keys, columns=totals().columns[:1], reads=(), index="by_two"))
    await m.expand()
    assert await m.fill(4) == 18
    await m.publish()
    await conn.execute("UPDATE public.lines SET amount = 2 WHERE amount = 3")
    assert await m.parity() == (12, 0)
    await m.drain()
    assert await m.parity() == (12, 0)
    assert await m.one(f"SELECT count(*), sum(lines)::int FROM {m.design.target_label}") == (12, 18)


async def test_drift_is_seen_and_a_note_repairs_it(m: Merge) -> None:
    target = m.design.target_label
    await m.conn.execute(f"UPDATE {target} SET total = 0 WHERE id = 1".encode())
    await m.conn.execute(f"DELETE FROM {target} WHERE id = 2".encode())
    await m.conn.execute(f"UPDATE {target} SET id = 77 WHERE id = 3".encode())
    assert await m.parity() == (11, 4)
    await m.conn.execute(merge_rows_rows.repair(m.design))
    assert await m.parity() == (10, 0)
    assert await m.drain() == 4
    assert await m.stored() == (10, 0)


async def test_merged_rows_cannot_be_written_before_contract_and_can_afterwards(m: Merge) -> None:
    for statement in (
        "INSERT INTO public_v2.totals VALUES (99, 1, 1, NULL)",
        "UPDATE public_v2.totals SET total = 1 WHERE id = 1",
        "DELETE FROM public_v2.totals WHERE id = 1",
    ):
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="merged rows of totals cannot be written yet"):
            await m.conn.execute(statement.encode())
    await m.conn.execute("PREPARE asked AS SELECT total FROM public_v2.totals WHERE id = $1")
    assert await m.one("EXECUTE asked(1)") == (6,)
    await m.conn.execute("UPDATE public.lines SET amount = 5 WHERE invoice_id = 1")
    await m.finish()
    assert await m.one("EXECUTE asked(1)") == (15,)
    await m.conn.execute("UPDATE public_v2.totals SET total = 1 WHERE id = 1")
    await m.conn.execute("INSERT INTO public_v2.totals VALUES (99, 1, 1, NULL)")
    assert await m.one("SELECT total FROM public.totals WHERE id = 1") == (1,)
    with pytest.raises(errors.UniqueViolation, match='"totals_pkey"'):
        await m.conn.execute("INSERT INTO public_v2.totals VALUES (99, 1, 1, NULL)")
    # What could not be made again is kept, with its key and its numbers.
    assert await m.one(f'SELECT count(*) FROM pgduet_archive."{PLAN}/public.lines"') == (30,)
    left = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgduet'::regnamespace AND proname LIKE 'merge%%'"
    assert await m.one(left) == (0,)


async def test_a_new_client_that_locks_what_it_reads_keeps_nobody_waiting(m: Merge, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as new:
        await new.execute("SELECT * FROM public_v2.totals FOR UPDATE")
        await m.conn.execute("SET lock_timeout = '200ms'")
        await m.conn.execute("UPDATE public.lines SET amount = 5")
        assert await m.drain() == 30
        await new.execute("SELECT * FROM public_v2.totals FOR UPDATE")
    assert await m.stored() == (10, 0)


async def test_contract_writes_the_last_notes_and_refuses_while_one_is_left(m: Merge) -> None:
    await m.conn.execute("UPDATE public.lines SET amount = 5 WHERE invoice_id = 1")
    statements = [each for each in await m.final() if each.summary != "the last notes"]
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="not all written"):
        await m.run(statements)
    assert await shown(m, 1) == (3, 15, "n3")
    await m.run(await m.final())
    assert await shown(m, 1) == (3, 15, "n3")


async def test_everything_can_be_taken_back_twice(m: Merge) -> None:
    await m.withdraw()
    await m.withdraw()
    await m.conn.execute("UPDATE public.lines SET amount = 5")
    left = await m.one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.lines'::regclass")
    assert left == (0,)
    assert await m.one("SELECT to_regclass(%s)", m.design.target_label) == (None,)
    await m.published()
    assert await m.stored() == (10, 0)


@pytest.mark.parametrize(
    "asked", ["EXECUTE asked(1)", "SELECT * FROM public_v2.totals", "SELECT {drain}", "SELECT {fill}"]
)
async def test_who_waits_for_truncate_does_not_hold_the_target(m: Merge, dsn: str, asked: str) -> None:
    queries = {
        "SELECT {drain}": merge_rows_rows.drain(m.design, 1),
        "SELECT {fill}": merge_rows_rows.fill(m.design, 1, None),
    }
    query = queries.get(asked, sql.SQL(asked))
    async with await psycopg.AsyncConnection.connect(dsn) as old, await psycopg.AsyncConnection.connect(dsn) as new:
        await new.execute("SET plan_cache_mode = force_generic_plan")
        await new.execute("PREPARE asked AS SELECT total FROM public_v2.totals WHERE id = $1")
        await new.execute("EXECUTE asked(1)")
        await new.commit()
        await old.execute("TRUNCATE public.lines")
        waiting = asyncio.create_task(new.execute(query))
        locks = (
            "SELECT count(*) FILTER (WHERE NOT granted), count(*) FILTER (WHERE relation = %s::regclass AND granted)"
            " FROM pg_locks WHERE pid = %s"
        )
        async with asyncio.timeout(10):
            while (found := await m.one(locks, m.design.target_label, new.info.backend_pid))[0] == 0:
                await asyncio.sleep(0.01)
        assert found == (1, 0)
        await old.rollback()
        await waiting
    assert await m.parity() == (10, 0)


async def test_a_group_is_found_by_indexes_on_either_side(m: Merge) -> None:
    await m.conn.execute("INSERT INTO public.lines (invoice_id) SELECT i % 2000 FROM generate_series(1, 20000) i")
    await m.drain()
    await m.conn.execute("ANALYZE public.lines")
    rows = await (await m.conn.execute("EXPLAIN SELECT * FROM public_v2.totals WHERE id = 7")).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert m.design.index is not None
    assert m.design.index in plan
    assert "Seq Scan on lines" not in plan
    assert f"{m.design.physical}_pkey" in plan


async def test_readers_do_not_step_over_notes_that_were_taken_long_ago(m: Merge) -> None:
    async def touched() -> int:
        query = "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM public_v2.totals WHERE id = 1"
        (plan,) = (await m.one(query))[0]
        return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])

    await m.conn.execute("INSERT INTO public.lines (invoice_id) SELECT 1 FROM generate_series(1, 20000)")
    assert await m.drain(5000) == 20_000
    bloated = await touched()
    await m.conn.execute(merge_rows_rows.tidy(m.design).sql)
    assert await touched() < 30 < bloated


NOT_APART = Clause(
    "the filling keeps drains out", "merging", "fill", "  PERFORM pg_advisory_xact_lock_shared({alone});\n"
)
ONE_SIDED = Clause(
    "the group that a row leaves is noted", "journal", "noted", "IF TG_OP <> 'INSERT' THEN", "IF TG_OP = 'DELETE' THEN"
)
NO_NEW_KEY = Clause(
    "the group that a row enters is noted", "journal", "noted", " OR TG_OP = 'UPDATE' AND {key_changed}"
)
KEPT = Clause("TRUNCATE empties the target", "merging", "truncate", "TRUNCATE {target}", "PERFORM 1")
STALE = Clause(
    "who is noted is not read from the target",
    "merging",
    "reading",
    " WHERE NOT EXISTS (SELECT FROM {journal} AS j WHERE {s_is_j})",
)
GHOST = Clause("an empty group has no row", "merging", "reading", " HAVING count(*) > 0")
KEEPS_EMPTY = Clause(
    "the drain deletes empty groups",
    "merging",
    "drain",
    " AND NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_j})",
    " AND false",
)


@pytest.mark.parametrize(
    ("scenario", "mutant", "says"),
    [
        (test_a_group_that_vanishes_while_it_is_filled_does_not_come_back, NOT_APART, "assert (10, 1)"),
    ],
)
async def test_the_filling_without_its_rule_is_seen_to_fail(
    dsn: str, conn: Connection, scenario: Any, mutant: Clause, says: str
) -> None:
    await must_fail(scenario(dsn, conn), mutant, says=says)


@pytest.mark.parametrize("mutant", [ONE_SIDED, NO_NEW_KEY, KEPT, STALE, GHOST, KEEPS_EMPTY], ids=lambda each: each.name)
async def test_the_notes_without_a_rule_are_seen_to_fail(conn: Connection, mutant: Clause) -> None:
    async def scenario() -> None:
        await create_lines(conn, 10)
        m = Merge(conn, totals())
        await m.published()
        await test_every_way_an_old_client_writes_is_read_by_new_clients_at_once(m, "origin")

    await must_fail(scenario(), mutant, says="assert")
