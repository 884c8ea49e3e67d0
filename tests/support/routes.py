"""The engine's side of routing: metadata, a published route, and changes of it as the engine makes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from pgduet.sql import block

NAME = "users-email"

Admin = psycopg.Connection[dict[str, Any]]


@contextmanager
def set_up(dsn: str) -> Iterator[Admin]:
    """Give a connection to a database that has pgduet's own tables."""
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        conn.execute(block("metadata", "create_metadata"))
        yield conn


def add_route(conn: Admin, name: str = NAME) -> None:
    """Add a published route from version 1 to version 2."""
    conn.execute(
        "INSERT INTO pgduet.route (migration, database, old_version, new_version, schemas, published) "
        "VALUES (%s, 'shop', '1', '2', '{public}', true)",
        [name],
    )


def change_route(conn: Admin, *, notify: bool = True, **values: object) -> int:
    """Change the route as the engine does, in one transaction, and give the new epoch."""
    sets = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in values.items())
    with conn.transaction():
        row = conn.execute(
            sql.SQL("UPDATE pgduet.route SET epoch = epoch + 1, {} WHERE migration = {} RETURNING epoch").format(
                sets, NAME
            )
        ).fetchone()
        if notify:
            conn.execute("NOTIFY pgduet_route, 'anything'")
    assert row is not None
    return int(row["epoch"])
