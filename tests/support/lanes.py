"""Databases for migrations that run side by side, each in a lane of its own."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql

from pgduet.local import EmbeddedPostgres


@asynccontextmanager
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """Create a database for a lane."""
    name = f"lane_{secrets.token_hex(6)}"
    async with await psycopg.AsyncConnection.connect(postgres.dsn(), autocommit=True) as admin:
        await admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield postgres.dsn(name)
        finally:
            await admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
