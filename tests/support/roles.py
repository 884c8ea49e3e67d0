"""Roles with no more than the rights that pgduet says it needs."""

from typing import Any

import psycopg
from psycopg import sql

from support.asking import one


async def ordinary_role(conn: psycopg.AsyncConnection[Any], role: str, dsn: str) -> str:
    """Make a role that owns `reviews` and may create schemas, and nothing else; returns its DSN."""
    name = sql.Identifier(role)
    database = await one(conn, "SELECT current_database()")
    await conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    await conn.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(database), name))
    await conn.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(name))
    await conn.execute(sql.SQL("ALTER TABLE reviews OWNER TO {}").format(name))
    return dsn.replace("postgres@", f"{role}@")
