"""The copy and what follows it, as the engine runs them: ranges with their cursor, the key, the journal emptied."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from support.mutants import Clause, must_fail
from support.shadow_clients import OLD, clients, errors_in
from support.shadows import PLAN, Shadow, create_orders, over, wide

from pgduet.barriers import HOOKS
from pgduet.operations.shadow_design import ShadowColumn, ShadowDesign
from pgduet.operations.shadow_sync import Form
from pgduet.plan.policy import Policy
from pgduet.postgres import shadowing, store
from pgduet.postgres.copying import Copying, Drain, give_key
from pgduet.postgres.pace import Pace

Connection = psycopg.AsyncConnection[Any]
ROWS = 30_000
ANCHOR = sql.Identifier("public", "orders")
PACE = Pace.of(Policy())


@pytest.fixture
async def engine(dsn: str, conn: Connection) -> AsyncIterator[Connection]:
    """Give a session as the engine has them, with a migration whose shadow is made; its table is cut into two ranges."""
    await create_orders(conn, ROWS)
    await Shadow(conn, wide()).expand()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as session:
        await session.execute(
            "INSERT INTO pgduet.migration"
            " (name, database, attempt, checksum, from_version, to_version, phase, state, plan, design, workflow_id)"
            " VALUES ('x', 'shop', 1, 'x', '1', '2', 'backfill', 'running', '{}', '{}', 'test')"
        )
        size = await Shadow(conn, wide()).pages()
        for part, (first, last) in enumerate(((0, size // 2), (size // 2, size))):
            bounds = {"id": 1, "relation": ANCHOR.as_string(None), "part": part, "block_from": first, "block_to": last}
            await store.run(session, "ranges_insert", bounds)
        yield session


async def copied(engine: Connection, part: int, design: ShadowDesign | None = None) -> Copying:
    """Copy a range to its end."""
    copying = Copying(engine, 1, design or wide(), ANCHOR, part)
    await copying.open()
    while not copying.finished:
        await copying.next(PACE)
    return copying


async def drained(engine: Connection) -> Drain:
    """Build the key and empty the journal."""
    assert await give_key(engine, wide(), PLAN, 1)
    assert not await give_key(engine, wide(), PLAN, 1)
    return await emptied(engine)


async def emptied(engine: Connection, design: ShadowDesign | None = None) -> Drain:
    """Empty the journal."""
    drain = Drain(engine, design or wide())
    await drain.open()
    while not drain.finished:
        await drain.next(PACE)
    return drain


async def test_ranges_are_copied_beside_clients_and_the_journal_brings_the_rest(
    dsn: str, conn: Connection, engine: Connection
) -> None:
    async with clients(dsn, ROWS, ["increment", "delete", "if_absent"], (OLD,)) as ledger:
        for part in (0, 1):
            assert (await copied(engine, part)).rows > ROWS / 3
        assert (await drained(engine)).keys > 0
    drain = Drain(engine, wide())
    while not drain.finished:
        await drain.next(PACE)
    assert errors_in(ledger) == {}
    assert (await Shadow(conn, wide()).parity())[1] == 0


async def journalled_by_pieces(engine: Connection) -> list[int]:
    """Put a rewritten table's keys into the journal, each piece by a worker that dies after it; gives where each began."""
    began = []
    while True:
        worker = Copying(engine, 1, wide(), ANCHOR, 1)
        await worker.open()
        if worker.finished:
            return began
        began.append(worker.cursor)
        worker.pages = 40
        await worker.next(PACE)


@pytest.mark.parametrize("rewrite", ["VACUUM FULL public.orders", "TRUNCATE public.orders"])
async def test_a_table_that_is_rewritten_half_way_is_left_to_the_journal(
    conn: Connection, engine: Connection, rewrite: str
) -> None:
    await copied(engine, 0)
    half = Copying(engine, 1, wide(), ANCHOR, 1)
    await half.open()
    await half.next(PACE)
    assert not half.finished
    await conn.execute(rewrite.encode())
    await conn.execute("INSERT INTO public.orders (code) VALUES ('one more')")
    copied_rows = half.rows
    await half.next(PACE)
    pieces = await journalled_by_pieces(engine)
    await drained(engine)
    assert half.rows == copied_rows
    assert rewrite.startswith("TRUNCATE") or len(pieces) > 3
    assert pieces == sorted(set(pieces))
    rows, wrong = await Shadow(conn, wide()).parity()
    assert (rows, wrong) == (1 if rewrite.startswith("TRUNCATE") else ROWS + 1, 0)


async def test_all_pages_of_a_rewritten_table_are_gone_through(conn: Connection, engine: Connection) -> None:
    half = Clause(
        "from its first page",
        "shadow",
        "range_rewritten",
        "part = %(part)s THEN 0 ELSE block_to",
        "part = 0 THEN 0 ELSE block_to",
    )
    scenario = test_a_table_that_is_rewritten_half_way_is_left_to_the_journal(conn, engine, "VACUUM FULL public.orders")
    await must_fail(scenario, half, says="0 > 3")


async def test_an_old_client_that_empties_the_table_does_not_wait_for_the_key(
    dsn: str, conn: Connection, engine: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await copied(engine, 0)
    await copied(engine, 1)

    async def meanwhile() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as old:
            await old.execute("SET statement_timeout = '1s'")  # it would wait for ever
            await old.execute("TRUNCATE public.orders")
            await old.execute("INSERT INTO public.orders (id, code) VALUES (7, 'anew'), (-1, 'new')")

    monkeypatch.setitem(HOOKS, "batch.before_commit", meanwhile)
    assert await give_key(engine, wide(), PLAN, 1)
    monkeypatch.undo()
    await conn.execute("UPDATE public.orders SET amount = 5 WHERE id = 7")
    await conn.execute("INSERT INTO public.orders (id, code) VALUES (8, 'where the shadow has a row too much')")
    await emptied(engine)
    assert await Shadow(conn, wide()).parity() == (3, 0)


async def test_nor_for_an_index_or_a_vacuum_of_its_shadow(dsn: str, conn: Connection, engine: Connection) -> None:
    await copied(engine, 0)
    await copied(engine, 1)
    await drained(engine)
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute(f"LOCK TABLE {wide().shadow_label} IN SHARE UPDATE EXCLUSIVE MODE".encode())
        await conn.execute("SET statement_timeout = '1s'")
        await conn.execute("TRUNCATE public.orders")
        await conn.execute("RESET statement_timeout")
        await conn.execute("INSERT INTO public.orders (id, code) VALUES (7, 'anew'), (-1, 'new')")
    await emptied(engine)
    assert await Shadow(conn, wide()).parity() == (2, 0)


def raising() -> ShadowDesign:
    """Design a shadow that cannot hold an order of three."""
    inverse = ShadowColumn(name="amount", type="bigint", nullable=False, up=over("(10 / (3 - t.amount))"))
    columns = (inverse if column.name == "amount" else column for column in wide().columns)
    return wide(guarded=True, columns=tuple(columns))


@pytest.mark.parametrize("left_out_by", ["the copy", "the trigger", "the drain"])
async def test_a_row_that_is_left_out_is_named_whoever_left_it_out(
    conn: Connection, engine: Connection, left_out_by: str
) -> None:
    design = raising()
    await Shadow(conn, design).form(Form.NOTE)
    break_it = "UPDATE public.orders SET amount = 3 WHERE id = 5"
    if left_out_by == "the copy":
        await conn.execute("ALTER TABLE public.orders DISABLE TRIGGER ALL")  # as if it had been so before
        await conn.execute(break_it)
        await conn.execute("ALTER TABLE public.orders ENABLE TRIGGER ALL")
    for part in (0, 1):
        await copied(engine, part, design)
    await give_key(engine, design, PLAN, 1)
    if left_out_by == "the trigger":
        await conn.execute(break_it)
    if left_out_by == "the drain":
        await conn.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {break_it}; COMMIT".encode())
    await emptied(engine, design)
    assert [row["key"] for row in await shadowing.unmapped(engine, design, 1, 10)] == [{"id": 5}]
    assert await Shadow(conn, design).one(f"SELECT count(*) FROM {design.shadow_label}") == (ROWS - 1,)


async def test_where_no_row_was_left_out_none_is_asked_again_whether_it_can_be_mapped(
    conn: Connection, engine: Connection
) -> None:
    design = raising()
    await Shadow(conn, design).form(Form.NOTE)
    for part in (0, 1):
        await copied(engine, part, design)
    await give_key(engine, design, PLAN, 1)
    await emptied(engine, design)
    fits = design.routine("shadow_fits").as_string(None)
    await conn.execute(f"DROP FUNCTION {fits}({design.label}) CASCADE".encode())
    assert await shadowing.unmapped(engine, design, 1, 10) == []


async def test_two_sessions_on_one_range_copy_no_row_twice(dsn: str, conn: Connection, engine: Connection) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as other:
        first, second = await asyncio.gather(copied(engine, 0), copied(other, 0))
    await copied(engine, 1)
    assert first.rows + second.rows < ROWS
    await drained(engine)
    assert await Shadow(conn, wide()).parity() == (ROWS, 0)


NOWAIT = Clause("TRUNCATE does not wait for the shadow", "shadow", "truncate", " NOWAIT")
FOUND = Clause("what is written down is found", "shadow", "emptied", "WHERE relation", "WHERE false AND relation")
NOTED = Clause(
    "the drain notes what it leaves out", "shadow", "note_unmapped", "WHERE {fits}", "WHERE false AND {fits}"
)


@pytest.mark.parametrize(
    ("mutant", "says"),
    [(NOWAIT, "canceling statement due to statement timeout"), (FOUND, "== (2, 0)"), (NOTED, "assert [] ==")],
    ids=lambda value: value.name if isinstance(value, Clause) else "",
)
async def test_the_rule_is_needed(dsn: str, conn: Connection, engine: Connection, mutant: Clause, says: str) -> None:
    if mutant is NOTED:
        scenario = test_a_row_that_is_left_out_is_named_whoever_left_it_out(conn, engine, "the drain")
    else:
        scenario = test_nor_for_an_index_or_a_vacuum_of_its_shadow(dsn, conn, engine)
    await must_fail(scenario, mutant, says=says)


async def test_who_holds_a_row_of_the_journal_is_named_and_nobody_else(
    dsn: str, conn: Connection, engine: Connection
) -> None:
    for part in (0, 1):
        await copied(engine, part)
    await conn.execute("UPDATE public.orders SET amount = 1 WHERE id = 7")
    assert await give_key(engine, wide(), PLAN, 1)
    said: list[str] = []
    async with (
        await psycopg.AsyncConnection.connect(dsn, application_name="holder") as holder,
        await psycopg.AsyncConnection.connect(dsn, application_name="elsewhere") as elsewhere,
    ):
        await elsewhere.execute("SELECT FROM public.orders WHERE id = 8 FOR UPDATE")
        await holder.execute("SELECT FROM public.orders WHERE id = 7 FOR UPDATE")
        draining = asyncio.create_task(shadowing.drain(engine, wide(), PACE, said.append))
        async with asyncio.timeout(30):
            while not said and not draining.done():
                await asyncio.sleep(0.02)
        await holder.rollback()
        await draining
    assert "holder" in said[0], said
    assert "elsewhere" not in said[0], said
    assert said[-1] == ""
    assert await Shadow(conn, wide()).parity() == (ROWS, 0)
