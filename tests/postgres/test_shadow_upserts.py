"""What a new client's INSERT does where a row is in its way, by whichever unique index: as on a table of that shape without us."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from support.carrying import Carrying
from support.mutants import Clause, Code, must_fail
from support.shadow_clients import held_up_by
from support.shadows import CUSTOMERS, Shadow, addresses, create_orders, over, wide
from support.worlds import on_each_version

from pgduet.operations import shadow_conflicts
from pgduet.operations.shadow_carried import late
from pgduet.operations.shadow_design import AnchorColumn, ShadowColumn, ShadowDesign, ShadowKey

Connection = psycopg.AsyncConnection[Any]

UNIQUE = """
ALTER TABLE public.orders DROP CONSTRAINT orders_code_key, ADD COLUMN tag name, ADD COLUMN part numeric,
  ADD COLUMN twice int GENERATED ALWAYS AS (amount * 2) STORED;
UPDATE public.orders SET amount = id, note = code, tag = code, part = 1.0 / id;
CREATE UNIQUE INDEX by_lower ON public.orders (lower(code), (note || '!'));
CREATE UNIQUE INDEX by_part ON public.orders ((1 / part)) WHERE part <> 0;
CREATE UNIQUE INDEX by_bytes ON public.orders (code COLLATE "C" text_pattern_ops) INCLUDE (amount);
CREATE UNIQUE INDEX by_tag ON public.orders (tag DESC) NULLS NOT DISTINCT;
CREATE UNIQUE INDEX by_twice ON public.orders (twice);
"""
WAYS: dict[str, dict[str, str | None]] = {
    "(lower(code), (note || '!'))": {"code": "C3", "note": "c3"},
    "((1 / part)) WHERE part <> 0": {"code": "part", "part": "0.50000000000000000000"},
    '(code COLLATE "C" text_pattern_ops)': {"code": "c3", "note": "another"},
    "(tag)": {"code": "tag", "tag": None},
    "(twice)": {"code": "twice", "amount": "3", "tag": "twice"},
}


def many_unique() -> ShadowDesign:
    """Design the shadow of a table with unique indexes of every kind; no column of theirs changes."""
    kept = {"tag": "name", "part": "numeric", "twice": "integer"}
    columns = [
        ShadowColumn(name=name, type=kind, same=None if name == "twice" else name) for name, kind in kept.items()
    ]
    columns[-1] = columns[-1].model_copy(update={"generated": "(amount * 2)"})
    anchors = [AnchorColumn(name=name, type=kind, same=name, may_raise=False) for name, kind in kept.items()]
    anchors[-1] = anchors[-1].model_copy(update={"same": None})
    amount = ShadowColumn(name="amount", type="integer", nullable=False, same="amount", default="0")
    before = [amount if column.name == "amount" else column for column in wide().columns]
    return wide(unique=(), rereads=True, columns=(*before, *columns), anchors=(*wide().anchors, *anchors))


def lowered() -> ShadowDesign:
    """Design a shadow whose codes are in small letters: what is unique there is none of the anchor's business."""
    code = ShadowColumn(name="code", type="text", nullable=False, up=over("lower(t.code)"))
    back = AnchorColumn(name="code", type="text", not_null=True, down=over("t.code"))
    return wide(
        unique=(),
        columns=tuple(code if column.name == "code" else column for column in wide().columns),
        anchors=tuple(back if column.name == "code" else column for column in wide().anchors),
    )


async def enforced(conn: Connection) -> Carrying:
    """Give a table whose shadow is unique by what the anchor is not, and in force."""
    await create_orders(conn, 0)
    await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_code_key")
    await conn.execute("CREATE UNIQUE INDEX by_code ON public.orders (code)")
    await conn.execute("INSERT INTO public.orders (id, code) VALUES (1, 'A'), (2, 'B')")
    m = Carrying(conn, lowered())
    await m.published()
    await m.cut_over()
    assert [index.name for index in late(await m.carried())] == ["by_code"]
    return m


def upsert(relation: str, arbiter: str, row: dict[str, str | None]) -> bytes:
    """Write an upsert that counts."""
    given = sql.SQL(", ").join(map(sql.Literal, row.values()))
    columns = sql.SQL(", ").join(map(sql.Identifier, row))
    query = sql.SQL("INSERT INTO {} AS o ({}) VALUES ({}) ON CONFLICT").format(sql.SQL(relation), columns, given)
    return f"{query.as_string(None)} {arbiter} DO ".encode()


@on_each_version
async def test_an_upsert_finds_its_row_by_any_unique_index(conn: Connection) -> None:
    await create_orders(conn, 5)
    await conn.execute(UNIQUE)
    await conn.execute("UPDATE public.orders SET tag = NULL WHERE id = 4")
    m = Carrying(conn, many_unique())
    await m.published()
    for arbiter, row in WAYS.items():
        for relation in ("public.orders", "public_v2.orders"):
            done = await conn.execute(upsert(relation, arbiter, row) + b"NOTHING")
            assert done.rowcount == 0, (arbiter, relation)
            await conn.execute(upsert(relation, arbiter, row) + b"UPDATE SET at = o.at + interval '1 day'")
        await conn.execute(upsert("public_v2.orders", "", row) + b"NOTHING")
        with pytest.raises(errors.UniqueViolation):
            await conn.execute(upsert("public_v2.orders", "", row).removesuffix(b"ON CONFLICT  DO "))
    counted = "SELECT array_agg(at::date - date '2026-01-01' ORDER BY id)::text FROM public.orders"
    assert await m.one(counted) == ("{0,2,6,2,0}",)
    # What a partial index does not have is in nobody's way, and NULLs are not, where they are distinct.
    await conn.execute("INSERT INTO public_v2.orders (code, tag, amount, part) VALUES ('free', 'x', 70, 0)")
    await conn.execute("INSERT INTO public_v2.orders (code, tag, amount, part) VALUES ('free too', 'y', 71, 0)")
    assert await m.parity() == (7, 0)


async def test_an_upsert_finds_its_row_by_an_index_that_is_no_constraint(conn: Connection) -> None:
    await create_orders(conn, 3)
    await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_code_key")
    await conn.execute("CREATE UNIQUE INDEX codes ON public.orders (code)")
    key = ShadowKey(name="codes", working="_pgduet_codes", anchor=("code",), shadow=("code",))
    m = Carrying(conn, wide(unique=(), freed=(key,), rereads=True))
    await m.published()
    for statement in (
        "INSERT INTO public_v2.orders (code) VALUES ('c3') ON CONFLICT (code) DO NOTHING",
        "INSERT INTO public_v2.orders AS o (code) VALUES ('c3') ON CONFLICT (code) DO UPDATE SET amount = o.amount + 1",
    ):
        await conn.execute(statement.encode())
    if conn.info.server_version >= 170000:  # before, MERGE cannot write through a view
        merge = (
            "MERGE INTO public_v2.orders o USING (VALUES ('c3'), ('c4')) v(code) ON o.code = v.code"
            " WHEN MATCHED THEN UPDATE SET amount = o.amount + 1 WHEN NOT MATCHED THEN INSERT (code) VALUES (v.code)"
        )
        await conn.execute(merge.encode())
        with pytest.raises(errors.UniqueViolation):
            await conn.execute(merge.replace("ON o.code = v.code", "ON false").encode())
    assert (await m.parity())[1] == 0


@on_each_version
async def test_a_conflict_that_only_the_new_version_has_leaves_nothing_in_the_old_one(conn: Connection) -> None:
    m = await enforced(conn)
    insert = "INSERT INTO public_v2.orders AS o (id, code) VALUES (50, 'a'), (51, 'c'), (1, 'other') ON CONFLICT"
    assert (await conn.execute(f"{insert} DO NOTHING".encode())).rowcount == 1
    assert await m.parity() == (3, 0)
    written = await conn.execute(
        b"INSERT INTO public_v2.orders AS o (id, code) VALUES (52, 'a'), (53, 'd') ON CONFLICT (code)"
        b" DO UPDATE SET amount = o.amount + 1 RETURNING id"
    )
    assert [row[0] async for row in written] == [1, 53]
    assert await m.parity() == (4, 0)
    with pytest.raises(errors.UniqueViolation, match="by_code"):
        await conn.execute("INSERT INTO public_v2.orders (id, code) VALUES (80, 'a')")
    with pytest.raises(errors.UniqueViolation):
        await conn.execute("INSERT INTO public_v2.orders (id, code) VALUES (1, 'e')")
    assert await m.parity() == (4, 0)
    await m.undo_cut_over()
    await conn.execute("INSERT INTO public_v2.orders (id, code) VALUES (81, 'a') ON CONFLICT DO NOTHING")
    assert await m.parity() == (5, 0)


async def test_nor_does_one_with_a_row_that_comes_at_the_same_time(dsn: str, conn: Connection) -> None:
    m = await enforced(conn)
    async with (
        await psycopg.AsyncConnection.connect(dsn) as first,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as second,
    ):
        await first.execute("INSERT INTO public.orders (id, code) VALUES (60, 'N')")
        insert = "INSERT INTO public_v2.orders (id, code) VALUES (61, 'n') ON CONFLICT (code) DO NOTHING"
        waiting = asyncio.create_task(second.execute(insert.encode()))
        await held_up_by(first, second)
        await first.commit()
        assert (await waiting).rowcount == 0
    assert await m.parity() == (3, 0)


@on_each_version
async def test_an_extracted_row_that_another_one_is_in_the_way_of_leaves_its_parent_alone(conn: Connection) -> None:
    await create_orders(conn, 0)
    await conn.execute(CUSTOMERS)
    await conn.execute("CREATE UNIQUE INDEX by_street ON public.customers (street)")
    await conn.execute("CREATE UNIQUE INDEX by_city ON public.customers (city)")
    m = Carrying(conn, addresses())
    await m.published()
    await m.cut_over()
    for row, arbiter in (("(1, 's2', 'X')", "(street)"), ("(1, 'x', 'C2')", "(city)"), ("(1, 's4', 'C6')", "")):
        insert = f"INSERT INTO public_v2.addresses AS a VALUES {row}"
        assert (await conn.execute(f"{insert} ON CONFLICT {arbiter} DO NOTHING".encode())).rowcount == 0
        with pytest.raises(errors.UniqueViolation):
            await conn.execute(insert.encode())
    done = await conn.execute(
        b"INSERT INTO public_v2.addresses VALUES (1, 's2', 'X'), (3, 's3', 'C3')"
        b" ON CONFLICT (street) DO UPDATE SET city = 'MOVED' RETURNING customer_id"
    )
    assert [row[0] async for row in done] == [2, 3]
    assert await m.one("SELECT street, city FROM public.customers WHERE id = 1") == (None, None)
    with pytest.raises(errors.ForeignKeyViolation):
        await conn.execute("INSERT INTO public_v2.addresses VALUES (99, 's99', NULL)")
    assert await m.parity() == (6, 0)


@pytest.mark.parametrize(("arbiter", "held"), [("(code)", 2), ("(id)", 1)])
async def test_an_upsert_that_two_rows_are_in_the_way_of_is_no_deadlock(
    dsn: str, conn: Connection, arbiter: str, held: int
) -> None:
    await create_orders(conn, 3)
    m = Shadow(conn, wide())
    await m.published()
    await nobody_waits_in_a_ring(dsn, conn, "(1, 'c2')", arbiter, held)
    assert await m.parity() == (3, 0)


async def test_nor_is_one_by_a_uniqueness_that_only_the_new_version_has(dsn: str, conn: Connection) -> None:
    m = await enforced(conn)
    await nobody_waits_in_a_ring(dsn, conn, "(70, 'b')", "(code)", 2)
    assert await m.parity() == (2, 0)


async def nobody_waits_in_a_ring(dsn: str, conn: Connection, row: str, arbiter: str, held: int) -> None:
    """Upsert a row of the new version while an old client has one that is in its way, and writes it afterwards."""
    soon = sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '50ms'").format(sql.Identifier(conn.info.dbname))
    await conn.execute(soon)
    async with (
        await psycopg.AsyncConnection.connect(dsn) as old,
        await psycopg.AsyncConnection.connect(dsn) as new,
    ):
        await old.execute("SELECT FROM public.orders WHERE id = %s FOR NO KEY UPDATE", (held,))
        insert = (
            f"INSERT INTO public_v2.orders AS o (id, code) VALUES {row} ON CONFLICT {arbiter} DO UPDATE SET amount = 7"
        )
        waiting = asyncio.create_task(new.execute(insert.encode()))
        await held_up_by(old, new)
        await old.execute("UPDATE public.orders SET note = 'x' WHERE id = %s", (held,))
        await old.commit()
        assert (await waiting).rowcount == 1
        await new.commit()


async def test_what_a_trigger_makes_of_a_value_is_told_by_the_old_tables_own_key(conn: Connection) -> None:
    await create_orders(conn, 3)
    await conn.execute(
        "CREATE FUNCTION public.lowers() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.code := lower(NEW.code); RETURN NEW; END $$;"
        " CREATE TRIGGER lowers BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.lowers()"
    )
    m = Carrying(conn, wide(rereads=True))
    await m.published()
    with pytest.raises(errors.UniqueViolation) as told:
        await conn.execute("INSERT INTO public_v2.orders (code) VALUES ('C3') ON CONFLICT (code) DO NOTHING")
    assert told.value.diag.constraint_name == "orders_code_key"
    assert await m.parity() == (3, 0)


async def test_so_is_an_index_or_an_exclusion_that_the_shadow_does_not_have(conn: Connection) -> None:
    await create_orders(conn, 3)
    m = Carrying(conn, wide())
    await m.published()
    await conn.execute("UPDATE public.orders SET amount = id")
    insert = "INSERT INTO public_v2.orders (code, amount) VALUES ('new', 2) ON CONFLICT DO NOTHING"
    for added, dropped, error in (
        ("CREATE UNIQUE INDEX since ON public.orders (amount)", "DROP INDEX public.since", errors.UniqueViolation),
        (
            "ALTER TABLE public.orders ADD CONSTRAINT since EXCLUDE USING btree (amount WITH =)",
            "ALTER TABLE public.orders DROP CONSTRAINT since",
            errors.ExclusionViolation,
        ),
    ):
        await conn.execute(added.encode())
        with pytest.raises(error, match="since"):
            await conn.execute(insert.encode())
        assert await m.parity() == (3, 0)
        await conn.execute(dropped.encode())


FIRST_ONLY = Clause("all that is in the way is locked", "shadow", "probes", "ORDER BY {order} LOOP", "LIMIT 1 LOOP")
ONE_IS_ENOUGH = Clause("and none is left out", "shadow", "probes", "bool_and(", "bool_or(")
SHARED = Code("and nobody else may write it", shadow_conflicts.probes, '"NO KEY UPDATE"', '"KEY SHARE"')
UNTRIED = Clause("a row is put into the shadow on trial", "shadow", "attempt_on_trial", "{trial}\n")
LEFT_THERE = Clause("the anchor does not keep it", "shadow", "trial", "RAISE EXCEPTION USING ERRCODE = 'PD409'", "NULL")


@pytest.mark.parametrize("mutants", [(FIRST_ONLY, ONE_IS_ENOUGH), (SHARED,)], ids=("all", "for itself"))
async def test_without_the_rules_there_are_deadlocks(
    dsn: str, conn: Connection, mutants: tuple[Clause | Code, ...]
) -> None:
    scenario = test_an_upsert_that_two_rows_are_in_the_way_of_is_no_deadlock(dsn, conn, "(code)", 2)
    await must_fail(scenario, *mutants, says="deadlock detected")


@pytest.mark.parametrize("mutant", [UNTRIED, LEFT_THERE], ids=lambda mutant: mutant.name)
async def test_and_rows_that_nobody_has_put_in(dsn: str, conn: Connection, mutant: Clause) -> None:
    await must_fail(
        test_nor_does_one_with_a_row_that_comes_at_the_same_time(dsn, conn), mutant, says="(4, 1) == (3, 0)"
    )
