"""Whole tables on their way to `pgduet_archive` and back."""

from psycopg import sql

from pgduet.operations import tables
from pgduet.operations.statement import Statement, trusted
from pgduet.operations.whole_tables import CreatedTable, DroppedTable
from pgduet.postgres.catalogue import relation_there
from pgduet.postgres.session import Connection
from pgduet.sql import block


async def own_search_path(conn: Connection) -> str:
    """Give the search_path that the worker's role has by itself."""
    found = await (await conn.execute(block("tables", "own_search_path"))).fetchone()
    return str(found["path"]) if found else ""


async def archived(conn: Connection, table: CreatedTable, name: str) -> bool | None:
    """Tell whether an archived table has the form that the plan gives it now; None where there is none of this name."""
    where = {"schema": tables.ARCHIVE, "table": name}
    found = await (await conn.execute(block("tables", "columns_of"), where)).fetchall()
    if not found:
        return None
    if (found[0]["comment"] or "").startswith(tables.MARK):
        return bool(found[0]["comment"] == tables.mark(table))
    return bool(found[0]["columns"] == [f"{column.name} {column.type}" for column in table.columns])


async def count_rows(conn: Connection, label: str) -> int:
    """Count a table's rows."""
    query = block("tables", "count").format(relation=trusted(label))
    found = await (await conn.execute(query)).fetchone()
    return int(found["rows"]) if found else 0


async def archive_table(conn: Connection, table: CreatedTable | DroppedTable, name: str) -> list[Statement]:
    """Give the statements that move a table to the archive, without its foreign keys."""
    where = {"schema": table.schema_name, "table": table.table}
    oid = {"oid": (await (await conn.execute(block("tables", "columns_of"), where)).fetchall())[0]["oid"]}
    keys = await (await conn.execute(block("tables", "foreign_keys_of"), oid)).fetchall()
    clashes = await (await conn.execute(block("tables", "clashes"), oid)).fetchall()
    free = {row["name"]: tables.set_aside(name, row["name"]) for row in clashes}
    return tables.archive(
        table, name, {row["name"]: sql.Identifier(row["schema"], row["target"]) for row in keys}, free
    )


async def bring_back(conn: Connection, table: CreatedTable, name: str) -> list[Statement]:
    """Give the statements that move a table back, and give its indexes and sequences their own names where these are free."""
    own_names = {}
    for part in await _parts(conn, name):
        own = tables.own_name(table, name, part)
        if own and not await relation_there(conn, table.schema_name, own):
            own_names[part] = own
    return tables.bring_back(table, name, own_names)


async def set_table_aside(conn: Connection, table: CreatedTable, name: str, aside: str) -> list[Statement]:
    """Give the statements that make room in the archive for the next table of this name."""
    parts = {
        part: tables.set_aside(aside, tables.own_name(table, name, part) or part) for part in await _parts(conn, name)
    }
    return tables.set_table_aside(name, aside, parts)


async def _parts(conn: Connection, name: str) -> list[str]:
    """Name the indexes and sequences of an archived table."""
    where = {"schema": tables.ARCHIVE, "table": name}
    oid = (await (await conn.execute(block("tables", "columns_of"), where)).fetchall())[0]["oid"]
    return [row["name"] for row in await (await conn.execute(block("tables", "parts"), {"oid": oid})).fetchall()]
