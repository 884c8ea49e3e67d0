"""Reads the catalogue into facts; decides nothing."""

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pgduet.errors import GateRefused, UnknownIndex, UnknownTable
from pgduet.operations.facts import (
    CheckFacts,
    ColumnFacts,
    ConstraintFacts,
    ForeignFacts,
    Hanging,
    IndexFacts,
    NamedIndex,
    TableFacts,
)
from pgduet.operations.views import OURS, Relation
from pgduet.postgres.keyed import key_facts
from pgduet.postgres.session import Connection
from pgduet.sql import block


async def rows(conn: Connection, name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a block of catalogue.sql."""
    return await (await conn.execute(block("catalogue", name), parameters)).fetchall()


async def table(conn: Connection, schema: str, name: str) -> TableFacts:
    """Read one table.

    Raises:
        UnknownTable: naming the table that comes nearest.
    """
    found = await rows(conn, "table", {"schema": schema, "table": name})
    if not found:
        raise UnknownTable(f"table {schema}.{name} does not exist{await _similar(conn, schema, name)}")
    facts = found[0]
    # Each by itself: it locks partitions until its transaction ends, and what follows may have to wait for the whole table.
    below = {
        each: await rows(conn, each, {"oid": facts["oid"]}) for each in ("partitions", "partition_key", "triggers")
    }
    async with conn.transaction():
        # Then PostgreSQL writes every name in its texts with its schema.
        await conn.execute("SET LOCAL search_path = ''")
        return await _table(conn, schema, name, facts, below)


async def _table(
    conn: Connection, schema: str, name: str, facts: dict[str, Any], below: dict[str, list[dict[str, Any]]]
) -> TableFacts:
    oid, under, triggers = {"oid": facts["oid"]}, below["partitions"], below["triggers"]
    hangs = await _dependents(conn, oid)
    for partition in under:
        await _hanging_below(conn, {"oid": partition["oid"]}, hangs)
    grants = await rows(conn, "column_grants", oid)
    return TableFacts(
        schema_name=schema,
        table=name,
        kind=facts["kind"],
        persistence=facts["persistence"],
        owner=facts["owner"],
        owned=facts["owned"] and facts["may_create"] and all(each["owned"] for each in under),
        inherits=facts["inherits"],
        partition_of=facts["partition_of"],
        partitions=len(under),
        late_keys=facts["late_keys"],
        odd_partitions=tuple(f"{p['schema']}.{p['table']}" for p in under if p["kind"] not in {"r", "p"}),
        partition_key=tuple(row["name"] for row in below["partition_key"]),
        hides_rows=facts["hides_rows"] or any(each["hides_rows"] for each in under),
        rows=sum((each["rows"] for each in under if each["leaf"]), 0.0 if under else facts["rows"]),
        pages=sum((each["pages"] for each in under), facts["pages"]),
        replica_identity=facts["replica_identity"],
        identity_index=facts["identity_index"],
        key=tuple(row["name"] for row in await rows(conn, "key", oid)),
        columns=tuple(ColumnFacts(**row, hangs=tuple(hangs[row["name"]])) for row in await rows(conn, "columns", oid)),
        indexes=tuple(IndexFacts(**row) for row in await rows(conn, "indexes", oid)),
        primary=await key_facts(conn, oid),
        checks=tuple(CheckFacts(**row) for row in await rows(conn, "checks", oid)),
        foreign=tuple(ForeignFacts(**row) for row in await rows(conn, "foreign_keys", oid)),
        constraints=tuple(ConstraintFacts(**row) for row in await rows(conn, "constraints", oid)),
        constraint_names=tuple(row["name"] for row in await rows(conn, "names_taken", oid)),
        column_grants=tuple((row["column"], row["grantee"], row["privilege"]) for row in grants),
        user_before_triggers=tuple(row["name"] for row in triggers if row["before"]),
        user_update_triggers=tuple(row["name"] for row in triggers if row["on_update"]),
        user_triggers=tuple(row["name"] for row in triggers),
    )


async def index(conn: Connection, schema: str, name: str) -> NamedIndex:
    """Find an index by its name.

    Raises:
        UnknownIndex: naming the index that comes nearest.
    """
    found = await index_if_there(conn, schema, name)
    if found is None:
        known = [f"{row['schema']}.{row['index']}" for row in await rows(conn, "similar_indexes", {})]
        raise UnknownIndex(f"index {schema}.{name} does not exist{_nearest(f'{schema}.{name}', known)}")
    return found


async def index_if_there(conn: Connection, schema: str, name: str) -> NamedIndex | None:
    """Find an index by its name, or nothing."""
    found = await rows(conn, "named_index", {"schema": schema, "name": name})
    return NamedIndex(**{**found[0], "columns": tuple(found[0]["columns"] or ())}) if found else None


async def relations(conn: Connection, schema: str) -> list[Relation]:
    """Read every table of a schema as its views need it."""
    grants: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for row in await rows(conn, "table_grants", {"schema": schema}):
        grants[row["table"]][row["grantee"]] = tuple(row["privileges"])
    found = []
    for row in await rows(conn, "schema_tables", {"schema": schema}):
        by_column = await rows(conn, "column_grants", {"oid": row["oid"]})
        found.append(
            Relation(
                schema,
                row["table"],
                tuple(row["columns"]),
                row["owner"],
                grants[row["table"]],
                row["may_give"],
                tuple((each["column"], each["grantee"], each["privilege"]) for each in by_column),
            )
        )
    return found


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


async def foreign_targets(conn: Connection, relation: str, columns: Sequence[str]) -> list[sql.Identifier]:
    """Name the tables that foreign keys over some columns refer to."""
    found = await rows(conn, "foreign_targets", {"relation": relation, "columns": list(columns)})
    return [sql.Identifier(row["schema"], row["target"]) for row in found]


async def relation_there(conn: Connection, schema: str, name: str) -> bool:
    """Tell whether a schema has a relation of a name."""
    return bool((await rows(conn, "relation_there", {"schema": schema, "name": name}))[0]["there"])


@dataclass(frozen=True, slots=True)
class VersionSchema:
    """A schema of ours: its name, the version whose clients use it, and the schema whose tables it shows."""

    name: str
    version: str
    shows: str


async def version_schemas(conn: Connection) -> list[VersionSchema]:
    """List our version schemas, as their comments describe them."""
    found = []
    for row in await rows(conn, "version_schemas", {"ours": OURS}):
        version, _, shows = row["comment"].removeprefix(OURS).partition(" of ")
        found.append(VersionSchema(row["name"], version, shows))
    return found


async def schemas_of_version(conn: Connection, version: str) -> tuple[str, ...]:
    """Name the schemas whose tables a version shows."""
    return tuple(each.shows for each in await version_schemas(conn) if each.version == version)


async def require_types(conn: Connection, table: tuple[str, str], types: Mapping[str, str], label: str) -> None:
    """See that columns of a table have the types that they had at preflight; people know the table as `label`.

    Raises:
        GateRefused: one has not; what was judged by its type may not hold.
    """
    schema, name = table
    now = {row["name"]: row["type"] for row in await rows(conn, "column_types", {"schema": schema, "table": name})}
    for column, kind in types.items():
        if now.get(column) != kind:
            raise GateRefused(
                f'column "{column}" of {label} was {kind} at preflight, and is {now.get(column, "gone")} now',
                hint="Abort and start again: what was judged by its type is then judged anew.",
            )


async def has_view(conn: Connection, schema: str, name: str) -> bool:
    """Tell whether a schema has a view of a name."""
    return bool((await rows(conn, "view_there", {"schema": schema, "name": name}))[0]["there"])


async def _dependents(conn: Connection, oid: dict[str, Any]) -> dict[str, list[Hanging]]:
    hangs: dict[str, list[Hanging]] = defaultdict(list)
    for row in await rows(conn, "dependents", {**oid, "ours": OURS}):
        if row["kind"] != "own":
            hangs[row["name"]].append(Hanging(kind=row["kind"], what=row["what"]))
    return hangs


async def _hanging_below(conn: Connection, oid: dict[str, Any], hangs: dict[str, list[Hanging]]) -> None:
    """Add what hangs on a partition's columns and comes not from its parent: nothing carries it over, whatever it is."""
    for row in await rows(conn, "dependents", {**oid, "ours": OURS}):
        if row["kind"] != "own" and not row["inherited"]:
            hangs[row["name"]].append(Hanging(kind="other", what=f"{row['what']}, of a partition alone"))


async def _similar(conn: Connection, schema: str, name: str) -> str:
    known = [f"{row['schema']}.{row['table']}" for row in await rows(conn, "similar_tables", {})]
    return _nearest(f"{schema}.{name}", known)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f'. Did you mean "{near[0]}"?' if near else ""
