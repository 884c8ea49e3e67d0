"""The shadow takes the anchor's name, under clients by the table's name and by both versions' views, and gives it back."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors
from support.mutants import Clause, Code, Mutant, must_fail
from support.shadow_clients import clients, errors_in
from support.shadows import create_orders, wide
from support.swaps import (
    APP,
    DIRECT,
    GUEST,
    NEW_VIEW,
    OLD_VIEW,
    WAYS,
    Swapping,
    Waits,
    Watch,
    as_role,
    make_roles,
    names,
    same_types,
    same_types_parted,
)
from support.worlds import NEWEST, VERSIONS, Servers, fresh_database

from pgduet.operations import shadow_swap
from pgduet.postgres.executor import LockBudget

Connection = psycopg.AsyncConnection[Any]
on_newest = pytest.mark.parametrize("version", [NEWEST], ids=lambda version: f"postgresql-{version}")


@pytest.fixture(params=VERSIONS, ids=lambda version: f"postgresql-{version}")
def version(request: pytest.FixtureRequest) -> int:
    """Give one version of PostgreSQL after the other."""
    found: int = request.param
    return found


@pytest.fixture
def dsn(version: int, servers: Servers) -> Iterator[str]:
    """Give the DSN of a database on it, whose server has the clients' roles."""
    with fresh_database(servers(version)) as found:
        make_roles(found)
        yield found


@asynccontextmanager
async def client(dsn: str, role: str = APP, **options: Any) -> AsyncIterator[Connection]:
    """Connect as a client."""
    async with await psycopg.AsyncConnection.connect(as_role(dsn, role), autocommit=True, **options) as conn:
        yield conn


async def more(ledger: Counter[str], count: int) -> None:
    """Wait until so many more statements were acknowledged, or one was not."""
    goal = ledger["done"] + count
    while ledger["done"] < goal and not errors_in(ledger):
        await asyncio.sleep(0.02)


async def has_name(m: Swapping, relation: str) -> bool:
    """Tell whether the table's name is now that of a relation."""
    (same,) = await m.one("SELECT to_regclass(%s) = 'public.orders'::regclass", relation)
    return bool(same)


@pytest.mark.parametrize("who", [APP, GUEST])
async def test_clients_by_three_ways_see_no_error_and_lose_no_write_through_swap_and_back(
    dsn: str, conn: Connection, who: str
) -> None:
    await create_orders(conn, 50)
    await conn.execute("CREATE TABLE public.items (order_id int REFERENCES public.orders ON DELETE CASCADE)")
    m = await Swapping(conn, same_types(unique=())).ready()
    await conn.execute(f"GRANT ALL ON public.items TO {who}".encode())
    kinds = ["increment", "increment", "two_in_order", "upsert", "if_absent", "delete", "read_then_write", "unrelated"]
    async with clients(as_role(dsn, who), 50, kinds, WAYS) as ledger:
        await more(ledger, 300)
        for _ in range(2):
            await m.swap()
            await more(ledger, 300)
            await m.swap_back()
            await more(ledger, 100)
    assert errors_in(ledger) == {}
    assert await m.one("SELECT coalesce(sum(amount), 0)::int FROM public.orders") == (ledger["amount"],)
    assert (await m.parity())[1] == 0


async def test_rows_of_a_partitioned_shadow_with_children_lose_no_write_through_swap_and_back(
    dsn: str, conn: Connection
) -> None:
    await create_orders(conn, 20)
    await conn.execute("CREATE TABLE public.items (order_id int REFERENCES public.orders ON DELETE CASCADE)")
    m = await Swapping(conn, same_types_parted()).ready()
    await conn.execute(f"GRANT ALL ON public.items TO {APP}".encode())
    async with clients(as_role(dsn, APP), 20, ["move", "increment", "two_in_order", "child"], WAYS) as ledger:
        await more(ledger, 200)
        await m.swap()
        await more(ledger, 300)
        await m.swap_back()
        await more(ledger, 100)
    # Who waits for a row that goes to another partition is told so by PostgreSQL, on any partitioned table; old clients have none.
    assert all(what.startswith("Serialization") and not what.endswith(OLD_VIEW) for what in errors_in(ledger))
    assert await m.one("SELECT sum(amount)::int FROM public.orders") == (ledger["amount"],)
    assert await m.parity() == (20, 0)


async def test_the_table_is_found_under_its_name_as_it_was_in_the_new_shape(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 3)
    await conn.execute("COMMENT ON TABLE public.orders IS 'what was ordered'")
    m = await Swapping(conn, same_types()).ready(unique=True)
    await conn.execute(f"REVOKE ALL ON public.orders FROM {GUEST}; GRANT SELECT (id, note) ON public.orders TO {GUEST}")
    before = await names(conn)
    await m.swap()
    async with client(dsn) as app:
        (shape,) = [row async for row in await app.execute("SELECT * FROM public.orders WHERE id = 1")]
        assert shape[1] == "c1"  # `note` comes first now
        made = await (
            await app.execute("INSERT INTO public.orders (code) VALUES ('x') RETURNING id, amount, at")
        ).fetchone()
        assert made is not None
        assert str(made[2]) == "2026-01-01 00:00:00"
        assert made[:2] == (4, 0)
        by_name = (
            "INSERT INTO public.orders (code) VALUES ('c1')"
            " ON CONFLICT ON CONSTRAINT orders_code_key DO UPDATE SET amount = 7"
        )
        await app.execute(by_name.encode())
        for statement, constraint in (
            ("INSERT INTO public.orders (code) VALUES ('c1')", "orders_code_key"),
            ("INSERT INTO public.orders (id, code) VALUES (1, 'y')", "orders_pkey"),
        ):
            with pytest.raises(errors.UniqueViolation) as told:
                await app.execute(statement.encode())
            assert (told.value.diag.constraint_name, told.value.diag.table_name) == (constraint, "orders")
        await app.execute("SELECT o.*, count(*) FROM public.orders o GROUP BY o.id")  # by its primary key
        await app.execute("SELECT ctid, tableoid::regclass FROM public.orders")
    assert await m.one("SELECT tableowner::text FROM pg_tables WHERE tablename = 'orders'") == (APP,)
    async with client(dsn, GUEST) as guest:
        await guest.execute("SELECT id, note FROM public.orders")
        with pytest.raises(errors.InsufficientPrivilege):
            await guest.execute("SELECT code FROM public.orders")
    assert await m.one("SELECT amount FROM public_v1.orders WHERE code = 'c1'") == (7,)
    await m.swap_back()
    # An index cannot be without its constraint again: that is all that is left.
    after = {row for row in await names(conn) if row[1] != "_pgduet_wide-orders_code" or row[2] == "i"}
    assert after == set(before)


async def test_an_insert_right_after_the_swap_takes_the_next_number(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 3)
    m = await Swapping(conn, same_types()).ready(unique=True)
    seen = [1, 2, 3]
    async with client(dsn) as app:

        async def insert() -> None:
            for way in (DIRECT, OLD_VIEW, NEW_VIEW, DIRECT):
                query = f"INSERT INTO {way} (code) VALUES (%s) RETURNING id, currval('public.orders_id_seq')"
                found = await (await app.execute(query.encode(), (f"n{len(seen)}",))).fetchone()
                assert found is not None
                assert found[0] == found[1]
                seen.append(found[0])

        await conn.execute(f"GRANT ALL ON SEQUENCE public.orders_id_seq TO {APP}".encode())
        await insert()
        await m.swap()
        await insert()
        await m.swap_back()
        await insert()
    assert seen == list(range(1, 16))


async def test_foreign_keys_hold_after_the_swap_in_sessions_that_have_checked_them_before(
    dsn: str, conn: Connection
) -> None:
    await create_orders(conn, 5)
    await conn.execute("CREATE TABLE public.items (order_id int REFERENCES public.orders ON DELETE CASCADE)")
    m = await Swapping(conn, same_types()).ready(unique=True)
    await conn.execute(f"ALTER TABLE public.items OWNER TO {APP}".encode())
    async with client(dsn) as app:
        await app.execute("INSERT INTO public.items VALUES (1), (2)")
        await m.swap()
        (order,) = [
            row[0] async for row in await app.execute("INSERT INTO public.orders (code) VALUES ('x') RETURNING id")
        ]
        await app.execute("INSERT INTO public.items VALUES (%s), (1)", (order,))
        with pytest.raises(errors.ForeignKeyViolation):
            await app.execute("INSERT INTO public.items VALUES (999)")
        await app.execute("DELETE FROM public.orders WHERE id = 1")
        await app.execute("DELETE FROM public_v2.orders WHERE id = 2")
        assert await m.one("SELECT array_agg(order_id) FROM public.items") == ([order],)
        await m.swap_back()
        await app.execute("DELETE FROM public.orders WHERE id = %s", (order,))
        with pytest.raises(errors.ForeignKeyViolation):
            await app.execute("INSERT INTO public.items VALUES (1)")
    assert await m.one("SELECT count(*)::int FROM public.items") == (0,)
    assert await m.parity() == (3, 0)


async def test_clients_wait_no_longer_than_the_budget_behind_a_writer_of_two_seconds_and_a_long_reader(
    dsn: str, conn: Connection
) -> None:
    await create_orders(conn, 10)
    m = await Swapping(conn, same_types()).ready(unique=True)
    m.budget = LockBudget(50, 60.0)
    for act in (m.swap, m.swap_back):
        async with (
            client(dsn) as writer,
            client(dsn) as reader,
            Waits().measured(as_role(dsn, APP), "UPDATE public.orders SET amount = amount + 1 WHERE id = 2") as waits,
        ):
            await reader.execute("BEGIN; DECLARE slow CURSOR FOR SELECT id FROM public.orders; FETCH slow")
            await writer.execute("BEGIN; UPDATE public.orders SET amount = amount + 1 WHERE id = 1")
            acting = asyncio.create_task(act())
            await asyncio.sleep(2.0)  # it is how long they hold it that is tested
            assert not acting.done()
            await writer.execute("COMMIT")
            await reader.execute("FETCH slow; COMMIT")
            tries = await acting
        assert tries > 1
        assert waits.done > 100
        # One try: its lock timeout, the slack for two locks, and on this machine a scheduler that is shared.
        assert waits.longest_ms < 50 + 50 + 100
    assert await m.parity() == (10, 0)


async def test_a_try_that_waits_for_one_side_meets_no_client_of_the_other_in_a_deadlock(
    dsn: str, conn: Connection
) -> None:
    await create_orders(conn, 3)
    m = await Swapping(conn, same_types()).ready(unique=True)
    m.budget = LockBudget(20_000, 60.0)
    change = "UPDATE {} SET amount = amount + 1 WHERE id = 2"
    waits = "SELECT count(*)::int FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with client(dsn) as first, client(dsn) as second, Watch(dsn) as watch:
        for act, holder, other in ((m.swap, OLD_VIEW, NEW_VIEW), (m.swap_back, NEW_VIEW, OLD_VIEW)):
            await first.execute("BEGIN")
            await first.execute(change.format(holder).encode())
            acting = asyncio.create_task(act())
            await watch.until(waits, 1)
            meeting = asyncio.create_task(second.execute(change.format(other).encode()))
            await watch.until(waits, 2)
            await first.execute("COMMIT")
            assert await acting == 1
            await meeting
    assert await m.one("SELECT amount FROM public.orders WHERE id = 2") == (4,)


async def test_a_transaction_that_began_before_the_swap_reads_and_writes_on(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 3)
    m = await Swapping(conn, same_types()).ready(unique=True)
    async with client(dsn) as app:
        await app.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        async with app.transaction():
            await app.execute("SELECT FROM pg_database")  # takes its snapshot
            await conn.execute("UPDATE public.orders SET amount = 5 WHERE id = 2")
            await m.swap()
            found = [row[0] async for row in await app.execute("SELECT amount FROM public.orders ORDER BY id")]
            assert found == [0, 0, 0]
            await app.execute("UPDATE public.orders SET amount = 1 WHERE id = 1")
    assert await m.one("SELECT array_agg(amount ORDER BY id) FROM public_v1.orders") == ([1, 5, 0],)


async def test_truncate_by_the_tables_name_empties_both(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 5)
    m = await Swapping(conn, same_types()).ready(unique=True)
    await m.swap()
    async with client(dsn) as app:
        await app.execute("TRUNCATE public.orders")
    assert await m.one("SELECT count(*)::int FROM public_v1.orders") == (0,)
    assert await m.one("INSERT INTO public.orders (code) VALUES ('c1') RETURNING id") == (6,)
    assert await m.parity() == (1, 0)


async def test_truncate_by_the_tables_name_gives_way_to_an_old_client(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 5)
    m = await Swapping(conn, same_types()).ready(unique=True)
    await m.swap()
    async with client(dsn) as app, client(dsn) as old:
        await old.execute("BEGIN; SELECT FROM public_v1.orders WHERE id = 1 FOR UPDATE")
        emptying = asyncio.create_task(app.execute("TRUNCATE public.orders"))
        query = "SELECT count(*)::int FROM pg_locks WHERE relation = 'public.orders'::regclass AND mode = 'AccessExclusiveLock'"
        while not emptying.done() and await m.one(query) == (0,):
            await asyncio.sleep(0.005)
        await old.execute("UPDATE public_v1.orders SET amount = 1 WHERE id = 1; COMMIT")
        with pytest.raises(errors.LockNotAvailable):
            await emptying
    assert await m.one("SELECT count(*)::int, max(amount) FROM public.orders") == (5, 1)
    assert await m.parity() == (5, 0)


async def test_the_policies_bind_who_comes_by_the_tables_name(dsn: str, conn: Connection) -> None:
    await _meet(dsn, conn, APP)


async def test_a_role_that_no_policy_binds_meets_old_clients_in_a_deadlock(dsn: str, conn: Connection) -> None:
    """Shows the limit because of which such roles are named, and refused while they use the table."""
    with pytest.raises(errors.DeadlockDetected):
        await _meet(dsn, conn, "postgres")


async def _meet(dsn: str, conn: Connection, role: str) -> None:
    await create_orders(conn, 3)
    m = await Swapping(conn, same_types()).ready(unique=True)
    await m.swap()
    async with client(dsn) as old, client(dsn, role) as direct:
        await old.execute("BEGIN; SELECT FROM public_v1.orders WHERE id = 1 FOR UPDATE")
        waiting = asyncio.create_task(direct.execute("UPDATE public.orders SET amount = amount + 1 WHERE id = 1"))
        query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        while (await m.one(query, direct.info.backend_pid)) != (True,):
            await asyncio.sleep(0.01)
        await old.execute("UPDATE public_v1.orders SET amount = amount + 1 WHERE id = 1; COMMIT")
        await waiting
    assert await m.one("SELECT amount FROM public.orders WHERE id = 1") == (2,)
    assert await m.parity() == (3, 0)


async def test_a_prepared_select_fails_for_good_where_a_type_changes(dsn: str, conn: Connection) -> None:
    """Shows why `check` refuses to swap such a table."""
    await create_orders(conn, 3)
    m = await Swapping(conn, wide()).ready(unique=True)
    async with client(dsn) as app:
        await app.execute("PREPARE by_name AS SELECT id FROM public.orders; EXECUTE by_name")
        await m.swap()
        for _ in range(2):
            with pytest.raises(errors.FeatureNotSupported, match="cached plan must not change result type"):
                await app.execute("EXECUTE by_name")


UNORDERED = Code("the view is locked ahead of the tables", shadow_swap.locks, "        *map(_lock_view, views),\n", "")
UNORDERED_BACK = Code(
    "the way back locks the view ahead of the tables", shadow_swap.swap_back, "        *map(_lock_view, views),\n", ""
)
STALE = Code(
    "the functions know the names as they are",
    shadow_swap.swap,
    "        *functions(after, plan, migration_id, Form.ENFORCE, unique),\n",
    "",
)
UNNUMBERED = Clause("the old table's sequence numbers new rows", "shadow", "number", "{column} IS NULL", "false")
NO_DEFAULTS = Code("defaults come with the name", shadow_swap._defaults, "column.default is not None", "False")
NAMELESS = Code(
    "the key's name comes with the table's",
    shadow_swap.swap,
    "        _rename_constraint(after.shadow, _own_key(design), key),\n",
    "",
)
UNOWNED = Code("its owner", shadow_swap._described, "in (*tables, design.shadow)", "in tables")
FULL = Clause("TRUNCATE empties the old table", "shadow_swap", "emptied", "  TRUNCATE {relation};\n")
PATIENT = Clause("TRUNCATE gives way", "shadow_swap", "emptied_function", " SET lock_timeout = {timeout}")
UNBOUND = Clause("FORCE binds the owner", "shadow", "force", "FORCE ROW", "NO FORCE ROW")


@on_newest
@pytest.mark.parametrize(
    ("scenario", "mutant", "says"),
    [
        (test_a_try_that_waits_for_one_side_meets_no_client_of_the_other_in_a_deadlock, UNORDERED, "assert 2 == 1"),
        (
            test_a_try_that_waits_for_one_side_meets_no_client_of_the_other_in_a_deadlock,
            UNORDERED_BACK,
            "assert 2 == 1",
        ),
        (test_an_insert_right_after_the_swap_takes_the_next_number, STALE, "orders_pkey"),
        (test_an_insert_right_after_the_swap_takes_the_next_number, UNNUMBERED, "null value in column"),
        (test_the_table_is_found_under_its_name_as_it_was_in_the_new_shape, NO_DEFAULTS, "null value in column"),
        (test_the_table_is_found_under_its_name_as_it_was_in_the_new_shape, NAMELESS, "orders_pkey"),
        (test_the_table_is_found_under_its_name_as_it_was_in_the_new_shape, UNOWNED, "('postgres',)"),
        (test_truncate_by_the_tables_name_empties_both, FULL, "(5,) == (0,)"),
        (test_truncate_by_the_tables_name_gives_way_to_an_old_client, PATIENT, "deadlock"),
        (test_the_policies_bind_who_comes_by_the_tables_name, UNBOUND, "deadlock"),
    ],
    ids=lambda value: value.name if isinstance(value, Clause | Code) else "",
)
async def test_the_rule_is_needed(
    dsn: str, conn: Connection, scenario: Callable[..., Coroutine[Any, Any, None]], mutant: Mutant, says: str
) -> None:
    await must_fail(partial(scenario, dsn=dsn, conn=conn)(), mutant, says=says)
