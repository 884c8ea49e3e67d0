"""Indexes of partitioned tables: declared on the parent alone, built concurrently on each partition, attached one by one.

Whatever was done before is found by what is there: a build that was cut short goes on where it stopped.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from psycopg import sql

from pgduet.activities.engine import Work
from pgduet.barriers import reach
from pgduet.operations import declare, partitioned
from pgduet.operations.constraints import CarriedIndex
from pgduet.operations.design import TableDesign
from pgduet.operations.names import fit
from pgduet.operations.statement import Statement
from pgduet.postgres.building import valid
from pgduet.postgres.session import Connection
from pgduet.sql import block

Build = Callable[[Work, TableDesign, CarriedIndex], Awaitable[bool]]


async def build_everywhere(work: Work, table: TableDesign, index: CarriedIndex, build: Build) -> bool:
    """Build an index on all partitions; tells whether there was anything to do. `build` builds it on one of them."""
    is_valid = await valid(work.conn, table, index.working)
    if is_valid:
        return False
    if is_valid is None:
        await _locked(work, partitioned.declare(table.relation, index.working, index))
    names = {(table.schema_name, table.table): index.working}
    for place in await _places(work, table, index):
        schema, name = place["schema"], place["table"]
        working = place["index"] or partitioned.index_name(work.migration.design.name, index, name)
        names[schema, name] = working
        if place["index"]:
            continue
        alone = table.model_copy(update={"schema_name": schema, "table": name, "partitioned": False})
        if place["leaf"]:
            await build(work, alone, index.model_copy(update={"working": working}))
        elif await valid(work.conn, alone, working) is None:
            await _locked(work, partitioned.declare(alone.relation, working, index))
        parent = sql.Identifier(place["parent_schema"], names[place["parent_schema"], place["parent"]])
        await _locked(work, partitioned.attach(alone.relation, parent, sql.Identifier(schema, working)))
    return True


async def proper_names(work: Work, table: TableDesign) -> list[Statement]:
    """Give the statements by which indexes of partitions get the names of those that have gone with their columns."""
    made = []
    for index in table.indexes if table.partitioned else ():
        old = {(p["schema"], p["table"]): p["index"] for p in await _places(work, table, index, index.name)}
        for place in await _places(work, table, index):
            schema, partition = place["schema"], place["table"]
            proper = old.get((schema, partition)) or fit(f"{partition}_{index.name}")
            made.append(declare.rename_index(table, schema, place["index"], proper))
    return made


async def _locked(work: Work, statement: Statement) -> None:
    async def also(conn: Connection) -> None:
        del conn
        await reach("constraint.before_commit")

    await work.locked([statement], also)


async def _places(work: Work, table: TableDesign, index: CarriedIndex, name: str | None = None) -> list[dict[str, Any]]:
    """List the partitions, parents first, with the index that each has for an index of the table (by default its new one)."""
    whole = sql.Identifier(table.schema_name, name or index.working).as_string(None)
    asked = {"relation": table.label, "index": whole}
    return await (await work.conn.execute(block("declare", "index_places"), asked)).fetchall()
