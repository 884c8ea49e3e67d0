"""From the plan and the catalogue to a shadow that works: both operations, through all forms."""

from typing import Any

import psycopg
import pytest
from support.resolving import resolved
from support.shadows import CUSTOMERS, Shadow, create_orders

from pgduet.errors import NotSupported, PgduetError, UnknownColumn
from pgduet.operations.shadow_sync import Form
from pgduet.plan.shadow_operations import ExtractTable, ShadowTable

Connection = psycopg.AsyncConnection[Any]
AT = {"name": "at", "type": "timestamptz", "nullable": False, "up": "at AT TIME ZONE 'UTC'"}


async def test_a_wider_key_another_type_and_a_replaced_column(conn: Connection) -> None:
    await create_orders(conn, 20)
    operation = ShadowTable.model_validate(
        {
            "table": "orders",
            "columns": [
                {"name": "id", "type": "bigint"},
                {"name": "amount", "type": "text", "nullable": False},
                AT,
                {"name": "remark", "type": "text", "up": "upper(note)"},
            ],
            "replaces": ["note"],
            "down": {"at": "at AT TIME ZONE 'UTC'", "note": "remark"},
            "order": ["id", "at"],
        }
    )
    design = await resolved(conn, operation)
    assert [column.name for column in design.columns] == ["id", "at", "code", "amount", "remark"]
    assert [key.name for key in design.unique] == ["orders_code_key"]
    m = Shadow(conn, design)
    await m.published()
    (key,) = await m.one("INSERT INTO public_v2.orders (code, remark) VALUES ('new', 'LOUD') RETURNING id")
    assert await m.one("SELECT amount, note FROM public.orders WHERE id = %s", key) == (0, "LOUD")
    await conn.execute("UPDATE public.orders SET note = 'quiet', amount = 5 WHERE id = 1")
    assert await m.one("SELECT amount, remark FROM public_v2.orders WHERE id = 1") == ("5", "QUIET")
    with pytest.raises(psycopg.errors.DataException, match="no equivalent"):
        await conn.execute("UPDATE public_v2.orders SET remark = 'small' WHERE id = 1")
    with pytest.raises(psycopg.errors.DataException, match="no equivalent"):
        await conn.execute("UPDATE public_v2.orders SET amount = 'many' WHERE id = 1")
    assert await m.parity() == (21, 0)


async def test_rows_spread_by_hash_over_partitions(conn: Connection) -> None:
    await create_orders(conn, 40)
    spread = {"method": "hash", "columns": ["id"], "modulus": 4}
    design = await resolved(conn, ShadowTable.model_validate({"table": "orders", "partition_by": spread}))
    assert design.unique == ()  # a uniqueness that spans partitions stays the anchor's
    m = Shadow(conn, design)
    await m.published()
    assert await m.one("SELECT count(*)::int FROM public.orders_p0") != (40,)
    with pytest.raises(psycopg.errors.UniqueViolation):
        await conn.execute("INSERT INTO public_v2.orders (code) VALUES ('c1')")
    await conn.execute("UPDATE public_v2.orders SET amount = 3 WHERE id = 7")
    assert await m.parity() == (40, 0)
    # Our own triggers are nobody's reason to read a row again.
    assert not (await resolved(conn, ShadowTable.model_validate({"table": "orders", "partition_by": spread}))).rereads
    await conn.execute(
        "CREATE TRIGGER own BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    )
    assert (await resolved(conn, ShadowTable.model_validate({"table": "orders", "partition_by": spread}))).rereads


async def test_a_table_with_generated_columns_that_refers_to_itself(conn: Connection) -> None:
    await create_orders(conn, 10)
    await conn.execute("ALTER TABLE public.orders ADD total int GENERATED ALWAYS AS (amount * 2) STORED")
    await conn.execute(
        "ALTER TABLE public.orders ADD parent int REFERENCES public.orders ON UPDATE CASCADE ON DELETE SET NULL"
    )
    await conn.execute("UPDATE public.orders SET parent = greatest(1, id - 1)")
    change = {"table": "orders", "columns": [{"name": "id", "type": "bigint"}]}
    m = Shadow(conn, await resolved(conn, ShadowTable.model_validate(change)))
    await m.published()
    for view in ("public_v2", "public"):
        await conn.execute(f"UPDATE {view}.orders SET id = id + 100, amount = 3 WHERE id = 1".encode())
        assert await m.parity() == (10, 0)
        await conn.execute(f"UPDATE {view}.orders SET id = 1 WHERE id = 101".encode())
        assert await m.parity() == (10, 0)
    assert await m.one("SELECT total, parent FROM public_v2.orders WHERE id = 1") == (6, 1)
    await conn.execute("DELETE FROM public_v2.orders WHERE id = 5")
    await conn.execute("DELETE FROM public.orders WHERE id = 8")
    assert await m.one("SELECT count(*)::int FROM public_v2.orders WHERE parent IS NULL") == (2,)
    assert await m.parity() == (8, 0)


async def test_an_old_client_may_empty_a_column_that_becomes_not_null_until_cutover(conn: Connection) -> None:
    await create_orders(conn, 3)
    await conn.execute("UPDATE public.orders SET note = 'n'")
    change = {"table": "orders", "columns": [{"name": "note", "type": "text", "nullable": False}]}
    m = Shadow(conn, await resolved(conn, ShadowTable.model_validate(change)))
    await m.published()
    await conn.execute("UPDATE public.orders SET note = NULL WHERE id = 1")
    await conn.execute("UPDATE public.orders SET amount = 7 WHERE id IN (1, 2)")
    assert await m.one("SELECT array_agg(id ORDER BY id), sum(amount) FROM public_v2.orders") == ([2, 3], 7)
    assert await m.one("SELECT kind, key FROM pgduet.drift") == ("unmapped", {"id": 1})
    await conn.execute("UPDATE public.orders SET note = 'm' WHERE id = 1")
    assert await m.one("SELECT note, amount FROM public_v2.orders WHERE id = 1") == ("m", 7)
    await m.form(Form.ENFORCE)
    with pytest.raises(
        psycopg.errors.DataException, match="cannot hold this row: a column that must not be empty would be"
    ):
        await conn.execute("UPDATE public.orders SET note = NULL WHERE id = 1")
    assert await m.parity() == (3, 0)


async def test_columns_that_move_to_a_table_of_their_own(conn: Connection) -> None:
    await create_orders(conn, 0)
    await conn.execute(CUSTOMERS)
    moved = ["street", {"name": "city", "to": "town", "up": "upper(city)", "down": "town"}]
    operation = {"table": "customers", "into": "addresses", "columns": moved, "key": {"id": "customer_id"}}
    m = Shadow(conn, await resolved(conn, ExtractTable.model_validate(operation)))
    await m.published()
    assert await m.one("SELECT count(*)::int, min(town) FROM public_v2.addresses") == (5, "C10")
    await conn.execute("INSERT INTO public_v2.addresses VALUES (1, NULL, 'ROME')")
    assert await m.one("SELECT street, city FROM public.customers WHERE id = 1") == (None, "ROME")
    assert await m.parity() == (6, 0)


UNTOLD = [
    "10 / rating > 1",
    "street::int > 1",
    "length(street) > 0",
    "street = city",
    "street ~ city",
    "docs ->> 'a' = 'b'",
    "public.own(street)",
    "id + 1 > 2",
    "price / rating > 1",
    "since < '2026-01-01'::timestamptz",
]
TOLD = [
    "street <> '' AND (price > 10 OR price = 'NaN' OR rating IN (1, 2) OR city IS NULL)",
    "CASE kind WHEN 'firm' THEN price * rating >= 0.5 ELSE coalesce(since >= '2026-01-01', docs IS NOT NULL) END",
]
RATED = """
CREATE TYPE public.kind AS ENUM ('firm', 'person');
CREATE FUNCTION public.own(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1::int > 0; END';
ALTER TABLE public.customers ADD rating int, ADD price numeric(12, 2), ADD docs jsonb, ADD since timestamp, ADD kind public.kind;
"""
ODD = """
INSERT INTO public.customers (name, street, city, rating, price, docs, since, kind) VALUES
    ('a', repeat('ß', 9999), '', 2147483647, 'NaN', '[1]', 'infinity', 'firm'),
    ('b', '', NULL, -2147483648, -1, '{"a": 1}', '-infinity', 'person'),
    ('c', NULL, 'x', 0, 9999999999.99, 'null', '4713-01-01 BC', NULL),
    ('d', 'x', 'y', 1, 10.5, '{}', now(), 'firm');
UPDATE public.customers SET rating = id, price = NULL, kind = 'person' WHERE name = 'd';
DELETE FROM public.customers WHERE name = 'c';
"""


def rated(when: str) -> ExtractTable:
    """Extract addresses of those customers of whom something is so."""
    operation = {"table": "customers", "into": "addresses", "columns": ["street", "city"], "key": {"id": "customer_id"}}
    return ExtractTable.model_validate({**operation, "when": when})


async def test_which_rows_are_extracted_is_asked_by_what_never_fails(conn: Connection) -> None:
    await create_orders(conn, 0)
    await conn.execute((CUSTOMERS + RATED).encode())
    for when in UNTOLD:
        with pytest.raises(NotSupported, match="whose write would fail with it") as caught:
            await resolved(conn, rated(when))
        assert caught.value.snippet == when


@pytest.mark.parametrize("when", TOLD)
async def test_a_row_of_any_values_is_extracted_or_not_and_its_client_meets_no_error(
    conn: Connection, when: str
) -> None:
    await create_orders(conn, 0)
    await conn.execute((CUSTOMERS + RATED).encode())
    m = Shadow(conn, await resolved(conn, rated(when)))
    await m.published()
    await conn.execute(ODD.encode())
    rows, differing = await m.parity()
    assert (rows > 0, differing) == (True, 0)


async def test_the_types_by_which_that_is_certain_stay(conn: Connection) -> None:
    await create_orders(conn, 0)
    await conn.execute((CUSTOMERS + RATED).encode())
    m = Shadow(conn, (await resolved(conn, rated("rating > 1"))).model_copy(update={"guarded": True}))
    await m.expand()
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="type of a column used by a function"):
        await conn.execute("ALTER TABLE public.customers ALTER rating TYPE text")
    await conn.execute("ALTER TABLE public.customers ALTER price TYPE numeric(14, 2)")


SURE = [
    {"name": "id", "type": "bigint"},
    {"name": "amount", "type": "numeric", "nullable": False},
    {"name": "code", "type": "varchar(20)", "nullable": False},
    {"name": "note", "type": "text", "nullable": False, "up": "coalesce(note, 'none')"},
    {"name": "note", "type": "text", "up": "CASE WHEN amount > 0 THEN note END"},
    {"name": "kind", "type": "varchar(9)", "nullable": False, "default": "'order'"},
]
UNSURE = [
    {"name": "amount", "type": "smallint"},
    {"name": "code", "type": "varchar(9)"},
    {"name": "note", "type": "text", "nullable": False},
    {"name": "note", "type": "text", "nullable": False, "up": "CASE WHEN amount > 0 THEN note END"},
    {"name": "code", "type": "text", "nullable": False, "up": "nullif(code, '')"},
    {"name": "kind", "type": "varchar(4)", "up": "code"},
    {"name": "at", "type": "timestamptz", "up": "at AT TIME ZONE 'UTC'"},
]


async def guards(conn: Connection, column: dict[str, Any]) -> tuple[bool, int]:
    """Tell whether a shadow is guarded, and how many EXCEPTION blocks what writes it has."""
    m = Shadow(conn, await resolved(conn, ShadowTable.model_validate({"table": "orders", "columns": [column]})))
    async with conn.transaction(force_rollback=True):
        await m.expand()
        await m.copy(safe=True)
        await m.keyed()
        bodies = (
            "SELECT string_agg(prosrc, '') FROM pg_proc WHERE pronamespace = 'pgduet'::regnamespace AND proname ~ %s"
        )
        (text,) = await m.one(bodies, "^(shadow_forward|shadow_fits|drain)_")
    return m.design.guarded, text.count("EXCEPTION WHEN OTHERS")


async def test_only_what_may_raise_or_be_empty_is_guarded(conn: Connection) -> None:
    await create_orders(conn, 1)
    await conn.execute("ALTER TABLE public.orders ALTER code TYPE varchar(12)")
    for column in SURE:
        assert await guards(conn, column) == (False, 0), column
    for column in UNSURE:
        assert await guards(conn, column) == (True, 1), column


@pytest.mark.parametrize(
    ("keys", "error", "says"),
    [
        ({"replaces": ["nope"], "down": {"nope": "1"}}, UnknownColumn, "has no column `nope`"),
        ({"replaces": ["id"], "down": {"id": "1"}}, NotSupported, "of the primary key"),
        ({"columns": [{"name": "id", "type": "bigint", "up": "id + 1"}]}, NotSupported, "of the primary key"),
        (
            {"partition_by": {"method": "hash", "columns": ["code"], "modulus": 2}},
            NotSupported,
            "primary key lacks code",
        ),
    ],
)
async def test_what_cannot_be_carried_is_refused(
    conn: Connection, keys: dict[str, Any], error: type[PgduetError], says: str
) -> None:
    await create_orders(conn, 0)
    with pytest.raises(error, match=says):
        await resolved(conn, ShadowTable.model_validate({"table": "orders", **keys}))


async def test_a_missing_key_is_refused(conn: Connection) -> None:
    spread = {"method": "hash", "columns": ["id"], "modulus": 2}
    await conn.execute("CREATE TABLE public.loose (id int)")
    with pytest.raises(NotSupported, match="no primary key"):
        await resolved(conn, ShadowTable.model_validate({"table": "loose", "partition_by": spread}))
