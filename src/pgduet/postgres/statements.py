"""What `pg_stat_statements` tells the census, where a database has it: roles that have run statements which name the old version.

It counts calls by role and statement, so that what was run between two looks is seen however short it was, but not by whom of a
role. Limits: statements that find the schema by search_path do not name it; those of the worker's own role are not told from the
engine's.
"""

from collections.abc import Sequence

from psycopg import errors, sql

from pgduet.postgres.session import Connection
from pgduet.sql import block

UNREADABLE = (errors.ObjectNotInPrerequisiteState, errors.InsufficientPrivilege, errors.UndefinedTable)
"""It is not loaded, or not for the worker's role, or has gone meanwhile."""


async def note_statements(conn: Connection, migration: str, versions: Sequence[str], patterns: Sequence[str]) -> bool:
    """Note roles whose counts have changed since the last look; the first one only notes the counts.

    `patterns` are those by which a statement names a version's schema, for each of the `versions`. Tells whether the counts could
    be read.
    """
    found = await (await conn.execute(block("census", "statements_at"))).fetchone()
    if found is None:
        return False
    query = block("census", "statements").format(statements=sql.Identifier(found["schema"], "pg_stat_statements"))
    values = {"migration": migration, "versions": list(versions), "patterns": list(patterns)}
    try:
        async with conn.transaction():
            await conn.execute(query, values)
    except UNREADABLE:
        return False
    return True
