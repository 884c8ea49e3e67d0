"""Reads the catalogue into facts; decides nothing."""

import difflib
from collections import defaultdict
from typing import Any

from pgduet.errors import UnknownTable
from pgduet.operations.facts import ColumnFacts, TableFacts
from pgduet.operations.views import OURS, Relation
from pgduet.postgres.session import Connection
from pgduet.sql import block


async def rows(conn: Connection, name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a block of catalogue.sql."""
    return await (await conn.execute(block("catalogue", name), parameters)).fetchall()


async def table(conn: Connection, schema: str, name: str, own_schemas: frozenset[str]) -> TableFacts:
    """Read one table; `own_schemas` are version schemas, whose views do not count as dependents.

    Raises:
        UnknownTable: naming the table that comes nearest.
    """
    found = await rows(conn, "table", {"schema": schema, "table": name})
    if not found:
        raise UnknownTable(f"table {schema}.{name} does not exist{await _similar(conn, schema, name)}")
    facts = found[0]
    oid = {"oid": facts["oid"]}
    forbidding, lost = await _dependents(conn, oid, own_schemas)
    triggers = await rows(conn, "triggers", oid)
    return TableFacts(
        schema_name=schema,
        table=name,
        kind=facts["kind"],
        persistence=facts["persistence"],
        owner=facts["owner"],
        owned=facts["owned"] and facts["may_create"],
        inherits=facts["inherits"],
        hides_rows=facts["hides_rows"],
        rows=facts["rows"],
        pages=facts["pages"],
        key=tuple(row["name"] for row in await rows(conn, "key", oid)),
        columns=tuple(
            ColumnFacts(**row, dependents=tuple(forbidding[row["name"]]), lost_with_it=tuple(lost[row["name"]]))
            for row in await rows(conn, "columns", oid)
        ),
        user_before_triggers=tuple(row["name"] for row in triggers if row["before"]),
        user_update_triggers=tuple(row["name"] for row in triggers if row["on_update"]),
    )


async def relations(conn: Connection, schema: str) -> list[Relation]:
    """Read every table of a schema as its views need it."""
    grants: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for row in await rows(conn, "table_grants", {"schema": schema}):
        grants[row["table"]][row["grantee"]] = tuple(row["privileges"])
    return [
        Relation(schema, row["table"], tuple(row["columns"]), row["owner"], grants[row["table"]], row["may_give"])
        for row in await rows(conn, "schema_tables", {"schema": schema})
    ]


async def schema_usage(conn: Connection, schema: str) -> tuple[str, ...]:
    """Read who may use a schema; the empty name stands for everybody."""
    return tuple(row["grantee"] for row in await rows(conn, "schema_usage", {"schema": schema}))


async def is_ours(conn: Connection, schema: str) -> bool | None:
    """Tell whether a version schema is ours; None where there is no schema of that name."""
    found = await rows(conn, "schema_owner", {"schema": schema, "ours": OURS})
    return found[0]["ours"] if found else None


async def views_of(conn: Connection, schema: str) -> tuple[str, ...]:
    """Read the names of a schema's views."""
    return tuple(row["name"] for row in await rows(conn, "schema_views", {"schema": schema}))


async def not_null_names(conn: Connection, relation: str) -> dict[str, str]:
    """Read the names of NOT NULL constraints by column (PostgreSQL 18)."""
    return {row["column"]: row["name"] for row in await rows(conn, "not_null_names", {"relation": relation})}


async def _dependents(
    conn: Connection, oid: dict[str, Any], own_schemas: frozenset[str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    forbidding: dict[str, list[str]] = defaultdict(list)
    lost: dict[str, list[str]] = defaultdict(list)
    for row in await rows(conn, "dependents", oid):
        if row["kind"] in {"own", "n", "S"} or row["view_schema"] in own_schemas or row["class"].endswith("pg_trigger"):
            continue
        column, what = row["name"], row["what"]
        index_or_check = (row["class"], row["kind"]) in {
            ("pg_class", "i"),
            ("pg_constraint", "c"),
            ("pg_constraint", "u"),
        }
        if index_or_check or row["class"].endswith("pg_statistic_ext"):
            lost[column].append(what)
        else:
            forbidding[column].append(what)
    return forbidding, lost


async def _similar(conn: Connection, schema: str, name: str) -> str:
    known = [f"{row['schema']}.{row['table']}" for row in await rows(conn, "similar_tables", {})]
    near = difflib.get_close_matches(f"{schema}.{name}", known, n=1)
    return f'. Did you mean "{near[0]}"?' if near else ""
