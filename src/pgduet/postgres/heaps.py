"""What has pages: a table, or the partitions of one. Everything that goes by heap pages goes from one of these to the next.

They are asked for each time: a partition may have been created, attached, detached or dropped since. A new one has the columns in
the making and the sync triggers by PostgreSQL itself; one that was attached with rows in it is found unfilled by parity, and
repaired.
"""

from psycopg import sql

from pgduet.operations.design import TableDesign
from pgduet.postgres import store
from pgduet.postgres.session import Connection
from pgduet.sql import block


async def heaps(conn: Connection, table: TableDesign) -> list[TableDesign]:
    """Give the table itself, or where it is partitioned, a design for each of its partitions with rows."""
    if not table.partitioned:
        return [table]
    found = await conn.execute(block("catalogue", "heaps"), {"relation": table.label})
    return [table.model_copy(update={"leaf": (row["schema"], row["table"])}) for row in await found.fetchall()]


async def heap(conn: Connection, migration: store.Migration, label: str) -> TableDesign | None:
    """Find the design for what has the pages of a range, by its quoted name; None where it is gone, or no partition any more."""
    for table in migration.design.tables:
        if table.label == label:
            return table
    for table in migration.design.tables:
        for each in await heaps(conn, table) if table.partitioned else []:
            if each.heap_label == label:
                return each
    return None


async def pages(conn: Connection, table: TableDesign) -> int:
    """Count the pages of what has them."""
    found = await store.run(conn, "pages", {"relation": table.heap_label})
    return int(found[0]["pages"])


async def all_pages(conn: Connection, table: TableDesign) -> int:
    """Count the pages of a table, with those of all its partitions."""
    return sum([await pages(conn, each) for each in await heaps(conn, table)])


async def filled(conn: Connection, table: TableDesign) -> TableDesign:
    """Give one that has rows, if there is one: the place for a probe."""
    found = [table, *await heaps(conn, table)]
    for each in found[1:]:
        if await pages(conn, each):
            return each
    return found[-1]


async def heaps_of(conn: Connection, relation: sql.Identifier) -> list[sql.Identifier]:
    """Give what has the pages of a relation that is in no design's tables: itself, or its partitions."""
    found = await conn.execute(block("catalogue", "heaps"), {"relation": relation.as_string(None)})
    return [sql.Identifier(row["schema"], row["table"]) for row in await found.fetchall()] or [relation]


async def pages_of(conn: Connection, relation: sql.Identifier) -> int:
    """Count the pages of such a relation, with those of all its partitions."""
    query = block("shadow_phases", "pages").format(relation=sql.Literal(relation.as_string(None)))
    (found,) = await (await conn.execute(query)).fetchall()
    return int(found["pages"])
