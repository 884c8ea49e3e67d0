"""A plan's aggregates see what rows cannot: an `up` and a `down` that are wrong alike. They are resolved at preflight."""

from typing import Any

import psycopg
import pytest
from support.mechanics import mechanics
from support.plans import parsed, replace

from pgduet.errors import ExpressionInvalid, GateRefused, PgduetError, UnknownColumn
from pgduet.phases import SyncMode
from pgduet.postgres import parity, store
from pgduet.postgres.databases import Database
from pgduet.postgres.session import session
from pgduet.postgres.survey import survey

Connection = psycopg.AsyncConnection[Any]

TABLE = "CREATE TABLE public.orders (id int PRIMARY KEY, shop text, price numeric(12, 2), at timestamptz, doc json)"
ROWS = """INSERT INTO public.orders
    SELECT i, CASE i % 4 WHEN 0 THEN NULL ELSE 'shop ' || i % 4 END, i * 1.25, '2026-01-01'::timestamptz + i * interval '1 h'
      FROM generate_series(1, 1000) i"""

RIGHT = replace(
    "public.orders", {"price": "cents / 100.0"}, {"name": "cents", "type": "bigint", "up": "(price * 100)::bigint"}
)
WRONG = replace(
    "public.orders", {"price": "cents / 10.0"}, {"name": "cents", "type": "bigint", "up": "(price * 10)::bigint"}
)
"""Both directions are wrong alike but for what is below a dime: no row with a whole price differs."""

TURNOVER: dict[str, Any] = {
    "name": "turnover",
    "table": "public.orders",
    "measure": "sum",
    "old": "price",
    "new": "cents / 100.0",
    "group_by": ["shop"],
}
DEAREST = TURNOVER | {"name": "dearest", "measure": "max", "group_by": []}
PRICED: dict[str, Any] = {
    "name": "priced",
    "table": "orders",
    "measure": "count",
    "group_by": [{"old": "price >= 100", "new": "cents >= 10000"}],
}


@pytest.fixture
async def orders(conn: Connection) -> Connection:
    """Give a table of 1,000 orders in three shops and none."""
    await conn.execute(TABLE.encode())
    await conn.execute(ROWS.encode())
    await conn.execute("VACUUM ANALYZE public.orders")
    return conn


async def test_aggregates_of_a_right_mapping_come_out_the_same(dsn: str, orders: Connection) -> None:
    async with mechanics(dsn, RIGHT, verify={"aggregates": [TURNOVER, DEAREST, PRICED]}) as m:
        await m.published()
        found = await m.compare()
        assert (found.mismatches, found.off) == (0, [])
        assert [(each.name, each.measure, each.differing) for each in found.aggregates] == [
            ("turnover", "sum", 0),
            ("dearest", "max", 0),
            ("priced", "count", 0),
        ]


async def test_maps_that_are_wrong_alike_are_seen_by_the_aggregates_alone(dsn: str, orders: Connection) -> None:
    await orders.execute("UPDATE public.orders SET price = ceil(price)")
    async with mechanics(dsn, WRONG, verify={"aggregates": [TURNOVER, DEAREST, PRICED]}) as m:
        await m.published()
        found = await m.compare()
        assert found.mismatches == 0, "row by row both sides agree"
        assert [(each.name, each.differing) for each in found.off] == [("turnover", 4), ("dearest", 1), ("priced", 2)]
        turnover = found.off[0]
        assert turnover.groups == [[None], ["shop 1"], ["shop 2"], ["shop 3"]]
        assert turnover.told == (
            'aggregate turnover (sum, "public"."orders") differs in 4 groups: NULL, shop 1, shop 2, shop 3'
        )
        assert found.off[1].groups == [[]]
        noted = await m.drift()
        assert {key["aggregate"] for key, kind in noted if kind == "aggregate"} == {"turnover", "dearest", "priced"}
        ((most,),) = await m.rows(
            "SELECT detail::jsonb ->> 'old' FROM pgduet.drift WHERE key ->> 'aggregate' = 'dearest'"
        )
        assert float(most) == 1250
        assert "1250" not in found.model_dump_json(), "what each side has stays in the database"


async def test_a_row_that_drifts_shows_in_its_group_until_it_is_repaired(dsn: str, orders: Connection) -> None:
    async with mechanics(dsn, RIGHT, verify={"aggregates": [TURNOVER]}) as m:
        await m.published()
        await m.unseen(f'UPDATE public.orders SET "{m.physical("cents")}" = 1 WHERE id = 6')
        found = await m.compare()
        assert (found.mismatches, found.off[0].groups) == (1, [["shop 2"]])
        await m.repair()
        assert (await m.compare()).off == []
        assert await m.drift() == []


async def test_the_aggregates_are_of_the_snapshot_in_which_rows_are_compared(dsn: str, orders: Connection) -> None:
    async with mechanics(dsn, RIGHT, verify={"aggregates": [TURNOVER]}) as m:
        await m.published()
        await m.unseen(f'UPDATE public.orders SET "{m.physical("cents")}" = 1 WHERE id = 6')

        def repaired_before_the_aggregate(note: str) -> None:
            if "turnover" in note:
                with psycopg.connect(dsn, autocommit=True) as other:
                    other.execute("UPDATE public.orders SET price = 9 WHERE id = 6")

        found = (await parity.compare(m.conn, m.migration, SyncMode.BOTH, repaired_before_the_aggregate)).parity
        assert (found.mismatches, len(found.off)) == (1, 1)
        assert (await m.compare()).off == []


async def test_an_expression_that_fails_on_a_row_says_so_without_its_value(dsn: str, orders: Connection) -> None:
    bad = TURNOVER | {"old": "1 / (price - 2.5)", "new": "1 / (cents / 100.0 - 2.5)"}
    async with mechanics(dsn, RIGHT, verify={"aggregates": [bad]}) as m:
        await m.published()
        with pytest.raises(GateRefused, match="aggregate turnover cannot be asked of every row"):
            await m.compare()
        assert (await store.latest(m.conn, m.migration.name)) is not None, "the session goes on"


REFUSED: dict[str, tuple[dict[str, Any], type[PgduetError], str, str]] = {
    "an old column that is not there": (TURNOVER | {"old": "prise"}, UnknownColumn, "old", 'Did you mean "price"'),
    "the old column on the new side": (
        TURNOVER | {"new": "price"},
        UnknownColumn,
        "new",
        "does not exist in version 2",
    ),
    "the new column on the old side": (TURNOVER | {"old": "cents"}, UnknownColumn, "old", "public.orders"),
    "a group that is not there": (TURNOVER | {"group_by": ["shop", "town"]}, UnknownColumn, "group_by[1].old", "town"),
    "a sum of texts": (TURNOVER | {"old": "shop", "new": "shop"}, ExpressionInvalid, "old", "cannot sum"),
    "a group without equality": (TURNOVER | {"group_by": ["doc"]}, ExpressionInvalid, "group_by[0].old", "group by"),
    "sides of two kinds": (
        TURNOVER | {"measure": "min", "old": "at", "new": "cents"},
        ExpressionInvalid,
        "new",
        "they cannot be compared",
    ),
    "an aggregate of an aggregate": (TURNOVER | {"old": "sum(price)"}, ExpressionInvalid, "old", "an aggregate"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_measured_or_compared_is_refused_at_its_place(
    dsn: str, orders: Connection, name: str
) -> None:
    aggregate, kind, where, says = REFUSED[name]
    async with session(Database("shop", dsn), "test", bare=True) as bare:
        with pytest.raises(kind) as refused:
            await survey(bare, parsed(RIGHT, verify={"aggregates": [aggregate]}))
    assert refused.value.place is not None
    assert refused.value.place.path == f"policy.verify.aggregates[0].{where}"
    assert says in refused.value.render()
    assert refused.value.hint or isinstance(refused.value, UnknownColumn)


EXTRACTED: dict[str, Any] = {
    "extract_table": {
        "table": "public.orders",
        "into": "public.prices",
        "key": {"id": "order_id"},
        "columns": [{"name": "price", "to": "amount"}],
        "when": "price > 10",
    }
}
AMOUNTS: dict[str, Any] = {
    "name": "amounts",
    "table": "public.prices",
    "measure": "sum",
    "old": "price",
    "new": "amount",
    "group_by": [{"old": "id % 3", "new": "order_id % 3"}],
}


async def test_of_an_extracted_table_the_new_side_is_its_rows_and_the_old_side_those_that_have_one(
    dsn: str, orders: Connection
) -> None:
    plan = parsed(EXTRACTED, verify={"aggregates": [AMOUNTS]})
    async with session(Database("shop", dsn), "test", bare=True) as conn:
        design = (await survey(conn, plan)).design
    (found,) = design.aggregates
    assert (found.shape, found.old.relation, found.new.relation) == (
        0,
        ("public", "orders"),
        ("public", design.shadows[0].physical),
    )
    assert found.old.only == design.shadows[0].exists
    assert found.new.only is None


@pytest.mark.parametrize(
    ("change", "says"),
    [({"table": "public.orders"}, "not changed by the plan"), ({"new": "price"}, "price")],
)
async def test_an_aggregate_of_an_extraction_speaks_of_what_the_new_version_has(
    dsn: str, orders: Connection, change: dict[str, Any], says: str
) -> None:
    async with session(Database("shop", dsn), "test", bare=True) as conn:
        with pytest.raises(PgduetError, match=says):
            await survey(conn, parsed(EXTRACTED, verify={"aggregates": [AMOUNTS | change]}))
