"""From the plan and the catalogue to a merge that works; and what cannot be merged, each with its place and a cure."""

import re
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support.merging import RELATION, Merge, create_lines

from pgduet.errors import DownIncomplete, NotSupported, PgduetError, UnknownColumn
from pgduet.hazards import Hazard
from pgduet.operations import merge_rows_resolve
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.plan.merge_operations import MergeRows
from pgduet.postgres import catalogue, merging

Connection = psycopg.AsyncConnection[Any]
COUNT = {"name": "lines", "measure": "count"}
TOTAL = {"name": "total", "measure": "sum", "value": "amount"}
TOP = "operations[0].merge_rows"


async def resolved(conn: Connection, **keys: Any) -> tuple[MergeDesign, list[Hazard]]:
    """Resolve an operation against the database, as a survey does."""
    given = {"table": "lines", "into": "totals", "key": {"invoice_id": "id"}, "columns": [COUNT, TOTAL], **keys}
    operation = MergeRows.model_validate(given)
    before, conn.row_factory = conn.row_factory, dict_row
    try:
        facts = await catalogue.table(conn, operation.relation.schema, operation.relation.name)
        source = await merging.source(conn, facts, list(operation.key))
        merge_rows_resolve.refuse(0, operation, facts, source)
        answers = await merging.answers(conn, 0, operation, facts)
        design = merge_rows_resolve.resolve("p", 0, operation, facts, answers, source)
        return design, list(merge_rows_resolve.hazards(design, source, facts))
    finally:
        conn.row_factory = before


async def test_measures_have_the_types_that_postgresql_gives_them_and_read_what_they_name(conn: Connection) -> None:
    await create_lines(conn, 10)
    await conn.execute("ALTER TABLE public.lines ADD price numeric(10,2), ADD at timestamptz, ADD kind varchar(9)")
    columns = [
        COUNT,
        TOTAL,
        {"name": "noted", "measure": "count", "value": "note"},
        {"name": "worth", "measure": "sum", "value": "price"},
        {"name": "paid", "measure": "sum", "value": "CASE WHEN note IS NULL THEN 0 ELSE amount END"},
        {"name": "first", "measure": "min", "value": "at"},
        {"name": "kind", "measure": "max", "value": "kind"},
    ]
    design, hazards = await resolved(conn, columns=columns)
    assert [(column.name, column.type) for column in design.columns] == [
        ("lines", "bigint"),
        ("total", "bigint"),
        ("noted", "bigint"),
        ("worth", "numeric"),
        ("paid", "bigint"),
        ("first", "timestamp with time zone"),
        ("kind", "text"),
    ]
    assert {column.name for column in design.reads} == {"amount", "note", "price", "at", "kind"}
    assert design.index is not None
    assert [hazard.id for hazard in hazards] == ["PD-H40", "PD-H41", "PD-H42", "PD-H43"]
    m = Merge(conn, design)
    await m.published()
    await conn.execute("UPDATE public.lines SET price = amount, at = now(), kind = 'k' || amount WHERE invoice_id < 5")
    await conn.execute("UPDATE public.lines SET note = NULL WHERE invoice_id = 7")
    assert await m.parity() == (10, 0)
    assert await m.one("SELECT lines, paid, noted FROM public_v2.totals WHERE id = 7") == (3, 0, 0)
    assert await m.drain() > 0
    assert await m.parity() == (10, 0)


async def test_an_index_that_leads_by_the_key_is_used_and_no_other_one_is_built(conn: Connection) -> None:
    await create_lines(conn, 1)
    for index, found in [
        ("(amount, invoice_id)", None),
        ("(invoice_id) WHERE amount > 0", None),
        ("(lower(note), invoice_id)", None),
        ("(invoice_id, amount)", True),
    ]:
        await conn.execute(f"CREATE INDEX by_key ON public.lines {index}".encode())
        design, hazards = await resolved(conn)
        assert (design.index is None) is bool(found), index
        assert ("PD-H43" in [hazard.id for hazard in hazards]) is not bool(found)
        await conn.execute("DROP INDEX public.by_key")
    await conn.execute("CREATE INDEX by_key ON public.lines (invoice_id, amount)")
    await conn.execute("CREATE PUBLICATION p FOR TABLE public.lines")
    design, hazards = await resolved(conn, key={"amount": "id", "invoice_id": "place"})
    assert design.index is not None
    assert [hazard.where for hazard in hazards if hazard.id == "PD-H41"] == ['"public"."lines" → totals (replicated)']


PARTED = (
    "CREATE TABLE public.parted (invoice_id int NOT NULL, amount int) PARTITION BY HASH (invoice_id);"
    " CREATE TABLE public.part PARTITION OF public.parted FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
)
CHILD = "CREATE TABLE public.notes (line int REFERENCES public.lines)"


@pytest.mark.parametrize(
    ("setup", "keys", "error", "path", "says"),
    [
        ("", {"key": {"invoice": "id"}}, UnknownColumn, "key.invoice", "Did you mean `invoice_id`"),
        ("", {"key": {"note": "id"}}, NotSupported, "key.note", "may be NULL"),
        (
            "ALTER TABLE public.lines ADD n numeric NOT NULL DEFAULT 1",
            {"key": {"n": "id"}},
            NotSupported,
            "key.n",
            "of type",
        ),
        (
            "ALTER TABLE public.lines ADD n int NOT NULL GENERATED ALWAYS AS (amount * 2) STORED",
            {"key": {"n": "id"}},
            NotSupported,
            "key.n",
            "generated",
        ),
        (
            "ALTER TABLE public.lines ADD n text COLLATE \"C\" NOT NULL DEFAULT ''",
            {"key": {"n": "id"}},
            NotSupported,
            "key.n",
            "a collation of its own",
        ),
        (CHILD, {}, NotSupported, "table", "is referred to: constraint notes_line_fkey"),
        (
            "ALTER TABLE public.lines ADD parent int REFERENCES public.lines",
            {},
            NotSupported,
            "table",
            "is referred to",
        ),
        ("CREATE VIEW public.big AS SELECT amount FROM public.lines", {}, NotSupported, "table", "is read by"),
        ("ALTER TABLE public.lines ENABLE ROW LEVEL SECURITY", {}, NotSupported, "table", "row level security"),
        ("CREATE TABLE public.more () INHERITS (public.lines)", {}, NotSupported, "table", "by inheritance"),
        ("ALTER TABLE public.lines SET UNLOGGED", {}, NotSupported, "table", "not kept through a crash"),
        (
            "CREATE RULE quiet AS ON DELETE TO public.lines DO INSTEAD NOTHING",
            {},
            NotSupported,
            "table",
            "has rules (quiet)",
        ),
        (
            PARTED,
            {"table": "parted"},
            NotSupported,
            "table",
            "is partitioned",
        ),
        (
            PARTED,
            {"table": "part"},
            NotSupported,
            "table",
            "is a partition of public.parted",
        ),
        ("", {"down": {"amuont": "total"}}, UnknownColumn, "down.amuont", "Did you mean `amount`"),
        ("", {"down": {"id": "1"}}, NotSupported, "down.id", "numbers or computes itself"),
        ("", {"down": {"amount": "amount"}}, UnknownColumn, "down.amount", "what is added to"),
        (
            "ALTER TABLE public.lines ADD place int NOT NULL DEFAULT 0; ALTER TABLE public.lines ALTER place DROP DEFAULT",
            {"down": {"amount": "total"}},
            DownIncomplete,
            "down",
            "no expression for `place`",
        ),
        ("", {"columns": [TOTAL | {"value": "amuont"}]}, UnknownColumn, "columns[0].value", 'Did you mean "amount"'),
        ("", {"columns": [TOTAL | {"value": "amount * 2"}]}, NotSupported, "columns[0].value", "may fail to compute"),
        (
            "",
            {"columns": [TOTAL | {"value": "amount::float8"}]},
            NotSupported,
            "columns[0].value",
            "depends on the order",
        ),
        (
            "",
            {"columns": [TOTAL | {"value": "note"}]},
            NotSupported,
            "columns[0].value",
            "the sum of values of type text",
        ),
        (
            "",
            {"columns": [TOTAL | {"measure": "max", "value": "amount > 0"}]},
            NotSupported,
            "columns[0].value",
            "the max of values of type boolean",
        ),
        ("", {"columns": [TOTAL | {"value": "amount +"}]}, PgduetError, "columns[0].value", "syntax error"),
        (
            "",
            {"columns": [TOTAL | {"value": "random()::int"}]},
            PgduetError,
            "columns[0].value",
            "another value each time",
        ),
        (
            "ALTER TABLE public.lines ADD n int GENERATED ALWAYS AS (amount * 2) STORED",
            {"columns": [TOTAL | {"value": "n"}]},
            NotSupported,
            "columns[0].value",
            "is generated",
        ),
        (
            'ALTER TABLE public.lines ADD n text COLLATE "C"',
            {"columns": [TOTAL | {"measure": "min", "value": "n"}]},
            NotSupported,
            "columns[0].value",
            "collation of its own",
        ),
    ],
)
async def test_what_cannot_be_merged_is_refused_with_its_place_and_a_cure(
    conn: Connection, setup: str, keys: dict[str, Any], error: type[PgduetError], path: str, says: str
) -> None:
    await create_lines(conn, 2)
    if setup:
        await conn.execute(setup.encode())
    with pytest.raises(error) as refused:
        await resolved(conn, **keys)
    assert says in refused.value.render()
    assert refused.value.place is not None
    assert refused.value.place.path == f"{TOP}.{path}"
    assert refused.value.hint or re.search("Did you mean|It has:", refused.value.message)
    if path.endswith("value"):
        assert refused.value.snippet


async def test_what_new_clients_write_is_resolved_and_told(conn: Connection) -> None:
    await create_lines(conn, 2)
    design, hazards = await resolved(conn, down={"amount": "total", "note": "'booked'"})
    assert [(each.name, each.type) for each in design.adds] == [("amount", "integer"), ("note", "text")]
    assert [hazard.id for hazard in hazards] == ["PD-H44", "PD-H41", "PD-H42", "PD-H43"]


async def test_nothing_is_left_behind_by_a_survey(conn: Connection) -> None:
    await create_lines(conn, 1)
    await resolved(conn)
    left = await conn.execute("SELECT count(*) FROM pg_class WHERE relname LIKE '%totals%'")
    assert await left.fetchone() == (0,)
    assert RELATION.table == "lines"
