"""Whole tables on their way to `pgduet_archive` and back."""

from psycopg import sql

from pgduet.operations import tables
from pgduet.operations.names import fit
from pgduet.operations.statement import Statement, trusted
from pgduet.operations.whole_tables import CreatedTable, DroppedTable
from pgduet.postgres.session import Connection
from pgduet.sql import block


async def own_search_path(conn: Connection) -> str:
    """Give the search_path that the worker's role has by itself."""
    found = await (await conn.execute(block("tables", "own_search_path"))).fetchone()
    return str(found["path"]) if found else ""


async def archived(conn: Connection, name: str) -> list[str] | None:
    """Give the columns of an archived table, each with its type; None where there is none of this name."""
    return await _columns(conn, tables.ARCHIVE, name)


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
    free = {row["name"]: fit(f"{name}/{row['name']}") for row in clashes}
    return tables.archive(
        table, name, {row["name"]: sql.Identifier(row["schema"], row["target"]) for row in keys}, free
    )


async def _columns(conn: Connection, schema: str, name: str) -> list[str] | None:
    found = await (await conn.execute(block("tables", "columns_of"), {"schema": schema, "table": name})).fetchall()
    return list(found[0]["columns"]) if found else None
