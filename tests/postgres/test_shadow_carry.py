"""A shadow carries over whatever hung on its anchor: after contract the catalogue says what it said before."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from support.carrying import Carrying, create_everything, of_everything
from support.described import described, mapped
from support.plans import parsed
from support.shadows import CUSTOMERS, PARTS, PLAN, addresses, create_orders, of_parts, parted, wide
from support.worlds import on_each_version

from pgduet.activities.building import build
from pgduet.activities.engine import Work
from pgduet.messages import Reference
from pgduet.operations.design import Design
from pgduet.operations.shadow_carried import as_table, early, late
from pgduet.phases import Authority, Phase
from pgduet.postgres import shadow_checked, store

pytestmark = on_each_version
Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def m(conn: Connection) -> Carrying:
    """Give the table with everything, and the mechanics of its shadow."""
    conn.row_factory = dict_row
    await store.set_up(conn)
    conn.row_factory = psycopg.rows.tuple_row
    await create_everything(conn)
    return Carrying(conn, of_everything())


async def test_the_successor_of_a_table_with_everything_is_described_as_the_table_was(m: Carrying) -> None:
    before = mapped(await described(m.conn, "public.orders"), {"note": "remark"})
    assert (await m.carried()).lost == ()
    await m.expand()
    await m.copy()
    await m.keyed()
    await m.drain()
    await m.publish()
    await m.cut_over()
    await m.contract()
    after = await described(m.conn, "public.orders")
    for column in before["columns"]:
        if column["attname"] == "id":
            column["type"] = "bigint"
    for sequence in before["sequences"]:
        if sequence["attname"] == "id":
            sequence["type"] = "bigint"
    for name, rows in after.items():
        assert rows == sorted(before[name], key=repr), name
    left = "SELECT array_agg(relname::text) FROM pg_class WHERE relname ~ '^_pgduet'"
    assert await m.one(left) == (None,)
    known = "SELECT count(*)::int FROM pg_statistic_ext s JOIN pg_statistic_ext_data d ON d.stxoid = s.oid"
    assert await m.one(known) == (2,)
    assert await m.one("SELECT count(*)::int FROM public.items JOIN public.orders o ON o.id = order_id") == (1,)


async def test_what_was_made_on_a_shadow_goes_with_it_and_the_anchor_is_as_it_was(m: Carrying) -> None:
    before = await described(m.conn, "public.orders")
    for rounds in range(2):
        await m.expand()
        await m.copy()
        await m.keyed()
        await m.drain()
        if rounds:
            await m.publish()
        await m.conn.execute("DROP SCHEMA IF EXISTS public_v2 CASCADE")
        await m.undone()
        assert await described(m.conn, "public.orders") == before
        left = "SELECT count(*)::int FROM pg_class WHERE relname ~ 'pgduet_wide'"
        assert await m.one(left) == (0,)


async def through(m: Carrying) -> None:
    """Go from nothing to contract."""
    await m.expand()
    await m.copy()
    await m.keyed()
    await m.drain()
    await m.publish()
    await m.cut_over()
    await m.contract()


async def bare(conn: Connection) -> None:
    """Make the metadata that notes need."""
    conn.row_factory = dict_row
    await store.set_up(conn)
    conn.row_factory = psycopg.rows.tuple_row


async def test_a_partitioned_successor_has_every_index_on_every_partition(conn: Connection) -> None:
    await create_orders(conn, 20)
    await conn.execute("UPDATE public.orders SET at = '2026-02-03' WHERE id % 2 = 0")
    await conn.execute("ALTER TABLE public.orders SET (fillfactor = 80, toast.autovacuum_enabled = false)")
    await conn.execute("CREATE INDEX by_note ON public.orders (upper(note)) WHERE amount > 1")
    await conn.execute("CREATE INDEX by_amount ON public.orders USING brin (amount)")
    await conn.execute("ALTER TABLE public.orders ALTER note SET STATISTICS 50, ALTER note SET COMPRESSION pglz")
    await conn.execute("COMMENT ON INDEX public.by_note IS 'noted'")
    await conn.execute("CREATE STATISTICS public.together ON amount, note FROM public.orders")
    await conn.execute("ALTER TABLE public.orders REPLICA IDENTITY FULL")
    m = Carrying(conn, parted())
    (lost,) = (await m.carried()).lost
    assert (lost.what, lost.grave) == ("orders_code_key", False)
    assert "not across them" in lost.why
    await through(m)
    names = (
        "SELECT array_agg(relname::text ORDER BY relname) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid"
        " WHERE indrelid = %s::regclass AND indisvalid"
    )
    assert await m.one(names, "public.orders") == (["by_amount", "by_note", "orders_code_key", "orders_pkey"],)
    attached = "SELECT count(*)::int FROM pg_inherits WHERE inhparent = %s::regclass"
    for name in ("by_amount", "by_note"):
        assert await m.one(attached, f"public.{name}") == (3,)
    named_by = (
        "SELECT array_agg(DISTINCT relreplident::text) FROM pg_class"
        " WHERE relname ~ '^orders(_[0-9])?$' AND relkind IN ('r', 'p')"
    )
    assert await m.one(named_by) == (["f"],)
    options = (
        "SELECT reloptions, (SELECT reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid), pg_get_userbyid(relowner)"
        " FROM pg_class c WHERE oid = 'public.orders_1'::regclass"
    )
    assert await m.one(options) == (["fillfactor=80"], ["autovacuum_enabled=false"], "postgres")
    column = (
        "SELECT attstattarget::int, attcompression::text FROM pg_attribute"
        " WHERE attrelid = 'public.orders_1'::regclass AND attname = 'note'"
    )
    assert await m.one(column) == (50, "p")
    assert await m.one("SELECT obj_description('public.by_note'::regclass, 'pg_class')") == ("noted",)
    assert await m.one("SELECT stxrelid::regclass::text FROM pg_statistic_ext") == ("orders",)


async def test_the_successor_of_a_partitioned_table_is_indexed_as_it_was(conn: Connection) -> None:
    await bare(conn)
    await conn.execute(PARTS)
    await conn.execute("CREATE INDEX by_note ON public.orders (note) INCLUDE (code)")
    m = Carrying(conn, of_parts())
    await through(m)
    said = "SELECT pg_get_indexdef('public.by_note'::regclass)"
    assert await m.one(said) == ("CREATE INDEX by_note ON public.orders USING btree (note) INCLUDE (code)",)


async def test_what_hung_on_columns_that_move_moves_with_them(conn: Connection) -> None:
    await create_orders(conn, 0)
    await conn.execute(CUSTOMERS)
    await conn.execute("CREATE INDEX by_name ON public.customers (name)")
    await conn.execute("CREATE INDEX by_street ON public.customers (street text_pattern_ops) WHERE city <> 'x'")
    await conn.execute("CREATE INDEX pair ON public.customers (name, street)")
    await conn.execute("ALTER TABLE public.customers ADD CONSTRAINT of_street UNIQUE (street)")
    await conn.execute("ALTER TABLE public.customers ADD CONSTRAINT short CHECK (length(street) < 99)")
    await conn.execute("ALTER TABLE public.customers ALTER street SET STATISTICS 42")
    await conn.execute("COMMENT ON COLUMN public.customers.street IS 'where'")
    await conn.execute("GRANT SELECT (street) ON public.customers TO PUBLIC")
    m = Carrying(conn, addresses())
    assert sorted((each.kind, each.what) for each in (await m.carried()).lost) == [
        ("check", "short"),
        ("index", "pair"),
    ]
    await through(m)
    found = "SELECT array_agg(indexname::text ORDER BY indexname) FROM pg_indexes WHERE tablename = %s"
    assert await m.one(found, "addresses") == (["addresses_pkey", "by_street", "of_street"],)
    assert await m.one(found, "customers") == (["by_name", "customers_pkey"],)
    street = (
        "SELECT attstattarget::int, col_description(attrelid, attnum), attacl::text FROM pg_attribute"
        " WHERE attrelid = 'public.addresses'::regclass AND attname = 'street'"
    )
    assert await m.one(street) == (42, "where", "{=r/postgres}")
    assert await m.one("SELECT contype::text FROM pg_constraint WHERE conname = 'of_street'") == ("u",)


async def test_a_uniqueness_over_other_values_binds_from_the_cutover_on(conn: Connection) -> None:
    await create_orders(conn, 3)
    await conn.execute("CREATE UNIQUE INDEX by_time ON public.orders (at, code)")
    await conn.execute("CREATE UNIQUE INDEX by_amount ON public.orders (amount, lower(code)) WHERE amount > 0")
    m = Carrying(conn, wide())
    await m.published()
    there = (
        "SELECT count(*)::int FROM pg_index i JOIN pg_class c ON c.oid = indexrelid"
        " WHERE indrelid = %s::regclass AND relname ~ 'by_'"
    )
    assert await m.one(there, m.design.shadow_label) == (1,)
    await conn.execute(
        "INSERT INTO public_v2.orders (code, amount) VALUES ('C1', 5) ON CONFLICT (amount, lower(code)) WHERE amount > 0 DO NOTHING"
    )
    await m.cut_over()
    assert await m.one(there, m.design.shadow_label) == (2,)
    await m.undo_cut_over()
    assert await m.one(there, m.design.shadow_label) == (1,)
    assert [index.name for index in late(await m.carried())] == ["by_time"]


async def test_a_shadow_in_a_publication_of_all_tables_is_filled_and_drained(conn: Connection) -> None:
    await create_orders(conn, 10)
    await conn.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    m = Carrying(conn, wide())
    await m.expand()
    await m.copy()
    await conn.execute("UPDATE public.orders SET amount = 7 WHERE id = 3")
    await m.keyed()
    assert await m.drain() == 1
    await m.publish()
    await conn.execute("DELETE FROM public.orders WHERE id = 4")
    assert await m.parity() == (9, 0)
    await m.contract()
    assert await m.one("SELECT relreplident::text FROM pg_class WHERE oid = 'public.orders'::regclass") == ("d",)


async def test_a_shadow_is_nobodys_by_default_privileges_and_is_as_safe_as_its_anchor(conn: Connection) -> None:
    await create_orders(conn, 1)
    await conn.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, UPDATE ON TABLES TO PUBLIC")
    await conn.execute("ALTER TABLE public.orders SET UNLOGGED")
    m = Carrying(conn, parted())
    await m.expand()
    kept = "SELECT array_agg(DISTINCT relpersistence::text) FROM pg_class WHERE relname ~ '^orders_([0-9]|rest)$'"
    assert await m.one(kept) == (["u"],)
    given = (
        "SELECT count(*)::int FROM pg_class c, aclexplode(c.relacl) x"
        " WHERE relname ~ '^(_pgduet|orders_)' AND x.grantee <> c.relowner"
    )
    assert await m.one(given) == (0,)


async def test_an_index_whose_build_was_cut_short_is_built_again(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 20)
    await conn.execute("CREATE INDEX by_note ON public.orders (note)")
    m = Carrying(conn, wide())
    await m.expand()
    await m.copy()
    await m.keyed()
    (index,) = (each for each in early(await m.carried()) if each.name == "by_note")
    async with await psycopg.AsyncConnection.connect(dsn) as writer:
        await writer.execute("INSERT INTO public.orders (code) VALUES ('held')")
        await conn.execute("SET statement_timeout = 300")
        with pytest.raises(psycopg.errors.QueryCanceled):
            await m.build(index)
        await conn.execute("RESET statement_timeout")
    state = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(format('public.%%I', %s::text))"
    assert await m.one(state, index.working) == (False,)

    @asynccontextmanager
    async def beside() -> AsyncIterator[Connection]:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as found:
            yield found

    async with beside() as engine:
        work = Work(engine, migration(), Reference(database="shop", name=PLAN, migration_id=1), "test", beside)
        assert await build(work, as_table(m.design), index)
        assert await m.one(state, index.working) == (True,)
        assert not await build(work, as_table(m.design), index)


def migration() -> store.Migration:
    """Give a migration with a policy, as the builder needs it."""
    plan = parsed()
    return store.Migration(
        id=1,
        name=PLAN,
        attempt=1,
        checksum="",
        phase=Phase.VERIFY,
        ended=False,
        state="running",
        authority=Authority.OLD,
        sync_mode=None,
        compensations=[],
        plan=plan,
        design=Design(name=PLAN, from_version="1", to_version="2", unmappable="refuse", tables=()),
        parity=None,
        no_return=False,
        paused=False,
        read_percent=0,
        going_back=None,
    )


WORKER = """
DO $$ BEGIN IF to_regrole('pgduet_carry_worker') IS NULL THEN CREATE ROLE pgduet_carry_worker; END IF; END $$;
GRANT pgduet_carry_owner, pgduet_view_owner TO pgduet_carry_worker;
GRANT ALL ON SCHEMA public TO pgduet_carry_worker, pgduet_view_owner;
GRANT ALL ON SCHEMA pgduet TO pgduet_carry_worker;
GRANT ALL ON ALL TABLES IN SCHEMA pgduet TO pgduet_carry_worker;
GRANT ALL ON ALL SEQUENCES IN SCHEMA pgduet TO pgduet_carry_worker;
GRANT CREATE ON TABLESPACE pgduet_carry_space TO pgduet_carry_worker;
ALTER PUBLICATION by_columns OWNER TO pgduet_carry_owner;
ALTER PUBLICATION whole OWNER TO pgduet_carry_owner;
ALTER STATISTICS public.orders_together OWNER TO pgduet_carry_owner;
ALTER TABLE public.items OWNER TO pgduet_carry_owner;
ALTER TABLE public.shops OWNER TO pgduet_carry_owner;
CREATE SCHEMA public_v2 AUTHORIZATION pgduet_carry_worker;
GRANT ALL ON SCHEMA public_v2 TO pgduet_view_owner;
"""


async def test_all_of_it_is_carried_by_a_worker_that_is_no_superuser(m: Carrying) -> None:
    await m.conn.execute(
        sql.SQL("GRANT CREATE ON DATABASE {} TO pgduet_carry_owner").format(sql.Identifier(m.conn.info.dbname))
    )
    await m.view_owner()
    await m.conn.execute(WORKER)
    before = await described(m.conn, "public.orders")
    await m.conn.execute("SET SESSION AUTHORIZATION pgduet_carry_worker")
    await m.expand()
    await m.copy()
    await m.keyed()
    await m.drain()
    await m.publish()
    await m.contract()
    await m.conn.execute("RESET SESSION AUTHORIZATION")
    after = await described(m.conn, "public.orders")
    for name in ("rights", "indexes", "statistics", "policies", "publications"):
        assert after[name] == mapped(before, {"note": "remark"})[name], name


async def test_foreign_keys_stand_on_a_partitioned_successor(conn: Connection) -> None:
    await create_orders(conn, 6)
    await conn.execute("ALTER TABLE public.orders ADD CONSTRAINT by_both UNIQUE (id, at)")
    await conn.execute(
        "CREATE TABLE public.items (id int, at timestamp, FOREIGN KEY (id, at) REFERENCES public.orders (id, at))"
    )
    await conn.execute("INSERT INTO public.items SELECT id, at FROM public.orders")
    at = {"type": "timestamp without time zone", "up": None, "same": "at", "default": None}
    base = parted()
    columns = tuple(c if c.name != "at" else c.model_copy(update=at) for c in base.columns)
    kept = {"down": None, "same": "at"}
    anchors = tuple(a if a.name != "at" else a.model_copy(update=kept) for a in base.anchors)
    m = Carrying(conn, base.model_copy(update={"columns": columns, "anchors": anchors}))
    async with m.dict_rows():
        await shadow_checked.checked(conn, PLAN, m.design)
    await through(m)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await conn.execute("DELETE FROM public.orders WHERE id = 1")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await conn.execute("INSERT INTO public.items VALUES (1, '2026-02-02')")
    # Before PostgreSQL 18 the parts that stand on single partitions are never marked.
    assert await m.one("SELECT count(*)::int FROM pg_constraint WHERE NOT convalidated AND conparentid = 0") == (0,)


async def test_who_may_use_some_columns_only_may_use_them_through_the_new_version(conn: Connection) -> None:
    await create_orders(conn, 3)
    await conn.execute(
        "DO $$ BEGIN IF to_regrole('pgduet_carry_reader') IS NULL THEN CREATE ROLE pgduet_carry_reader; END IF; END $$"
    )
    await conn.execute("GRANT SELECT (id, code), UPDATE (code) ON public.orders TO pgduet_carry_reader")
    await conn.execute("GRANT USAGE ON SCHEMA public TO pgduet_carry_reader")
    m = Carrying(conn, wide())
    await m.published()

    async def used(schema: str) -> None:
        await conn.execute("SET ROLE pgduet_carry_reader")
        assert await m.one(f"SELECT code FROM {schema}.orders WHERE id = 2") == ("c2",)
        await conn.execute(f"UPDATE {schema}.orders SET code = 'c2' WHERE id = 2".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await conn.execute(f"SELECT note FROM {schema}.orders".encode())
        await conn.execute("RESET ROLE")

    await used("public_v2")
    await m.contract()
    # A view with its caller's rights asks for all that it shows, as every other version view does.
    await used("public")
