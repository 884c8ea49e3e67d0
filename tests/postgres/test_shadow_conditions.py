"""Which rows a new client's condition locks: those that it finds, where PostgreSQL may ask it before the policies (PD-H36)."""

from itertools import pairwise
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.shadows import Shadow, create_orders, wide
from support.worlds import on_each_version

from pgduet.operations.shadow_design import AnchorColumn, KeyColumn, ShadowColumn, ShadowDesign

pytestmark = on_each_version
Connection = psycopg.AsyncConnection[Any]
ROWS = 400

FIND_ONLY_THEIRS = {
    "id = 5": 1,
    "id IN (1, 2)": 2,
    "id > 5 AND id < 8": 2,
    "code = 'c5'": 1,
    "code >= 'c398' AND code < 'c4'": 2,
    "owner = '00000000-0000-0000-0000-000000000007'": 1,
    "amount = 7": 1,
    "at = timestamptz '2026-01-01 00:07:00+00'": 1,
    "id IN (SELECT id FROM public_v2.orders WHERE code LIKE '%99')": 4,
}
LOCK_ALL_THAT_THEY_READ = {
    "code LIKE 'c39_'": ROWS,
    "lower(code) = 'c5'": ROWS,
    "at = date '2026-01-01'": ROWS,
    "price = 7": ROWS,
    "id IN (7, 8) AND price = 7": 2,
}


async def locked(dsn: str, m: Shadow, condition: str) -> int:
    """Count the rows that an UPDATE by a condition locks in the anchor."""
    async with await psycopg.AsyncConnection.connect(dsn) as new:
        await new.execute(f"UPDATE public_v2.orders SET note = 'x' WHERE {condition}".encode())
        (free,) = await m.one("SELECT count(*)::int FROM (SELECT FROM public.orders FOR UPDATE SKIP LOCKED) o")
        await new.rollback()
    return ROWS - int(free)


async def scans(conn: Connection, condition: str) -> bool:
    """Tell whether an UPDATE by a condition asks the policy of each row of the shadow."""
    asked = await conn.execute(f"EXPLAIN UPDATE public_v2.orders SET note = 'x' WHERE {condition}".encode())
    lines = [line for (line,) in await asked.fetchall()]
    return any("Seq Scan on" in scan and "lock_update" in asks for scan, asks in pairwise(lines))


def keyed_by(kind: str) -> ShadowDesign:
    """Design a shadow of a table whose key is numeric; its own is of another type."""
    base = wide(numbering=None, identity=False)
    changes = {
        "key": (KeyColumn(anchor="id", anchor_type="numeric(18,0)", shadow="id", shadow_type=kind),),
        "columns": (ShadowColumn(name="id", type=kind, nullable=False, same="id"), *base.columns[1:]),
        "anchors": (AnchorColumn(name="id", type="numeric(18,0)", not_null=True, same="id"), *base.anchors[1:]),
    }
    return base.model_copy(update=changes)


async def test_a_condition_locks_what_it_finds_or_what_it_reads_as_the_hazard_says(dsn: str, conn: Connection) -> None:
    await create_orders(conn, ROWS)
    base = wide()
    more = (("owner", "uuid"), ("price", "numeric"))
    await conn.execute("ALTER TABLE public.orders ADD owner uuid, ADD price numeric")
    await conn.execute(
        "UPDATE public.orders SET amount = id, price = id, at = at + id * interval '1 min',"
        " owner = lpad(id::text, 32, '0')::uuid"
    )
    await conn.execute("VACUUM ANALYZE public.orders")
    columns = [ShadowColumn(name=name, type=kind, same=name) for name, kind in more]
    anchors = [AnchorColumn(name=name, type=kind, same=name, may_raise=False) for name, kind in more]
    m = Shadow(conn, wide(columns=(*base.columns, *columns), anchors=(*base.anchors, *anchors)))
    await m.published()
    for name in ("owner", "amount", "at", "price", "lower(code)"):
        await conn.execute(sql.SQL(f"CREATE INDEX ON {{}} ({name})").format(m.design.shadow))
    await conn.execute(sql.SQL("ANALYZE {}").format(m.design.shadow))
    for condition, rows in (FIND_ONLY_THEIRS | LOCK_ALL_THAT_THEY_READ).items():
        assert await locked(dsn, m, condition) == rows, condition
        assert await scans(conn, condition) == (rows == ROWS), condition


@pytest.mark.parametrize(("kind", "rows"), [("numeric(18,0)", ROWS), ("bigint", 1), ("text", 1)])
async def test_a_key_of_a_leaking_type_locks_all_rows_unless_it_changes_or_a_superuser_vouches_for_it(
    dsn: str, conn: Connection, kind: str, rows: int
) -> None:
    await create_orders(conn, ROWS)
    await conn.execute("ALTER TABLE public.orders ALTER id DROP IDENTITY")
    await conn.execute("ALTER TABLE public.orders ALTER id TYPE numeric(18,0)")
    m = Shadow(conn, keyed_by(kind))
    await m.published()
    assert await locked(dsn, m, f"id = '1'::{kind}") == rows
    if kind == "numeric(18,0)":
        await conn.execute("ALTER FUNCTION pg_catalog.numeric_eq(numeric, numeric) LEAKPROOF")
        assert await locked(dsn, m, "id = 1") == 1
