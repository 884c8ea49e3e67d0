"""Drift that was put in by hand: every key named, the aggregates off as well, repaired, logged; then all is the same again."""

import asyncio
from typing import Any

import psycopg
import pytest
from support.twins import MIGRATION, REFERENCE, twins

from pgduet.errors import GateRefused
from pgduet.operations.aggregates import Aggregate, Measured
from pgduet.operations.comparison import Mapping, column
from pgduet.operations.expressions import Expression
from pgduet.phases import Authority
from pgduet.postgres import counterpart, suspects
from pgduet.postgres.databases import Database
from pgduet.postgres.session import session
from pgduet.postgres.traits import traits

Connection = psycopg.AsyncConnection[Any]
ROWS = 30_000


def side(table: str) -> Measured:
    amount = Expression(source="amount", canonical="r.amount", alias="r")
    shop = Expression(source="shop", canonical="r.shop", alias="r")
    return Measured(relation=("public", table), value=amount, type="numeric", groups=(shop,))


TURNOVER = Aggregate(name="turnover", measure="sum", old=side("old"), new=side("new"))


async def make(conn: Connection) -> None:
    await conn.execute("CREATE TABLE old (id int PRIMARY KEY, shop int, amount numeric(10,2))")
    await conn.execute("CREATE TABLE new (id bigint PRIMARY KEY, shop int, amount numeric(12,2))")
    await conn.execute(f"INSERT INTO old SELECT i, i % 10, i FROM generate_series(1, {ROWS}) i".encode())
    await conn.execute("INSERT INTO new SELECT * FROM old")
    await conn.execute("ANALYZE old")


async def test_drift_by_hand_is_named_key_by_key_seen_in_aggregates_repaired_and_logged(
    dsn: str, conn: Connection
) -> None:
    await make(conn)
    await conn.execute("UPDATE new SET amount = amount + 1 WHERE id % 100 = 11")
    await conn.execute("DELETE FROM new WHERE id % 100 = 22")
    await conn.execute("INSERT INTO new SELECT -i, 3, 5 FROM generate_series(1, 400) i")
    async with twins(dsn) as t, session(Database("shop", dsn), "test") as other:

        async def compared() -> counterpart.Compared:
            sessions = (t.conn, other)
            return await counterpart.compare(sessions, t.comparison, MIGRATION, aggregates=(TURNOVER,), after_s=0.0)

        found = await compared()
        assert (len(found.parts), found.rows, found.shadow_rows, found.clean) == (2, ROWS, ROWS + 100, False)
        assert found.settled.confirmed == {"mismatch": 300, "missing": 300, "extra": 400}
        assert len(found.examples) == counterpart.EXAMPLES
        assert [(each.name, each.groups) for each in found.aggregates] == [("turnover", [[1], [2], [3]])]
        open_notes = "SELECT kind, (key ->> 'id')::int FROM pgduet.drift WHERE resolved_at IS NULL"
        named = {
            *(("mismatch", n) for n in range(11, ROWS, 100)),
            *(("missing", n) for n in range(22, ROWS, 100)),
            *(("extra", -n) for n in range(1, 401)),
        }
        assert set(await t.rows(open_notes + " AND kind <> 'aggregate'")) == named
        values = "SELECT key -> 'group' ->> 0, detail FROM pgduet.drift WHERE kind = 'aggregate' ORDER BY 1"
        assert await t.rows(values) == [
            ("1", '{"old":"44988000.00","new":"44988300.00"}'),
            ("2", '{"old":"44991000.00","new":"40499400.00"}'),
            ("3", '{"old":"44994000.00","new":"44996000.00"}'),
        ]
        done = await suspects.repair(t.conn, t.comparison, REFERENCE, found.parts, Authority.OLD)
        assert done.written == 1000
        logged = await t.rows("SELECT (affected ->> 'rows')::int FROM pgduet.audit WHERE action = 'repair'")
        assert sum(rows for (rows,) in logged) == 1000
        assert (await compared()).clean
        assert await t.rows(open_notes) == []


async def test_a_whole_comparison_that_was_cancelled_goes_on_and_counts_each_row_once(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(conn)
    for limit in ("FIRST_ROWS", "MOST_ROWS"):
        monkeypatch.setattr(f"pgduet.postgres.comparing.{limit}", 500)
    async with twins(dsn) as t:
        notes: list[str] = []

        def progress(note: str) -> None:
            notes.append(note)
            if len(notes) == 2:
                task.cancel()

        task = asyncio.create_task(
            counterpart.compare((t.conn,), t.comparison, MIGRATION, after_s=0.0, progress=progress)
        )
        with pytest.raises(asyncio.CancelledError):
            await task
        ((before,),) = await t.rows("SELECT rows FROM pgduet.comparison")
        assert 0 < before < ROWS
        found = await counterpart.compare((t.conn,), t.comparison, MIGRATION, after_s=0.0)
        assert (found.rows, found.shadow_rows, found.clean) == (ROWS, ROWS, True)


async def test_what_is_refused_in_one_part_ends_the_whole_by_its_own_error(dsn: str, conn: Connection) -> None:
    await make(conn)
    never = Expression(source="shop / 0", canonical="r.shop / 0", alias="r")
    async with twins(dsn) as t, session(Database("shop", dsn), "test") as other:
        mapping = Mapping(up=(column((await traits(t.conn, "public.new"))["shop"], never),))
        broken = t.comparison.model_copy(update={"mappings": (mapping,)})
        with pytest.raises(GateRefused, match="cannot be mapped, the first"):
            await counterpart.compare((t.conn, other), broken, MIGRATION)
