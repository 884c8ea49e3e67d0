"""pgroll's own scenario: `users(id serial pk, name varchar(255) null)`, all names NULL, to be NOT NULL; in each tool's words.

All rows then get the same name, which is pgduet's best case. So there is a second shape of the data, where nearly all differ: what
is not about rows per second is measured with it.

`visits` is a column that the migration is not about; only benchmarks with clients have it.
"""

import json
import time
from pathlib import Path
from typing import Any, LiteralString

from psycopg import sql

from benchmarks.common.ground import Connection, connect, settle
from pgduet.plan.load import parse_plan
from pgduet.plan.models import Plan

NAME = "benchmark"
"""What every migration here is called, each in a database of its own."""
UP = "CASE WHEN name IS NULL THEN 'placeholder' ELSE name END"
PGROLL_SCHEMAS = ("public_01_create_table", "public_02_alter_column")
V1, V2 = "public_v1", "public_v2"

_TABLE = "CREATE TABLE users (id serial PRIMARY KEY, name varchar(255))"
_VISITS = "ALTER TABLE users ADD COLUMN visits integer NOT NULL DEFAULT 0"


async def create(dsn: str, *, visits: bool = False) -> None:
    """Create the table, as whoever has no tool for it."""
    async with await connect(dsn) as conn:
        await conn.execute(_TABLE)
    if visits:
        await add_visits(dsn)


async def add_visits(dsn: str) -> None:
    """Add the column that no migration is about."""
    async with await connect(dsn) as conn:
        await conn.execute(_VISITS)


async def fill(dsn: str, rows: int, *, distinct: bool = False) -> None:
    """Put in rows without names, or, `distinct`, four of five with a name of their own; and leave the server at rest.

    Names are numbers, since clients count them up, and in fives their sum is 0, so that what was counted can be found.
    """
    if distinct and rows % 5:
        message = f"{rows} rows are no fives"
        raise ValueError(message)
    own = "(CASE i % 5 WHEN 1 THEN i WHEN 2 THEN 1 - i WHEN 3 THEN i WHEN 4 THEN 1 - i END)::text"
    named = sql.SQL(own) if distinct else sql.SQL("NULL")
    async with await connect(dsn) as conn:
        query = sql.SQL("INSERT INTO users (name) SELECT {} FROM generate_series(1, {}) AS i")
        await conn.execute(query.format(named, sql.Literal(rows)))
    await settle(dsn)


CHANGE: dict[str, Any] = {"table": "public.users", "column": "name", "nullable": False, "up": UP, "down": "name"}


SHADOW: dict[str, Any] = {
    "shadow_table": {
        "table": "public.users",
        "columns": [
            {"name": "id", "type": "bigint"},
            {"name": "name", "type": "text", "nullable": False, "up": UP},
            {"name": "visits", "type": "bigint", "nullable": False},
        ],
        "down": {"name": "name"},
    }
}
"""The same table in another shape: a wider key, a wider number, and names that are never empty."""


def plan(
    database: str, change: dict[str, Any] | None = None, operation: dict[str, Any] | None = None, **policy: Any
) -> Plan:
    """Write pgduet's plan: it alters one column, by default `name`, or does what an operation says."""
    return parse_plan(
        {
            "name": NAME,
            "database": database,
            "version": {"from": "1", "to": "2"},
            "operations": [operation or {"alter_column": change or CHANGE}],
            "policy": policy,
        }
    )


def pgroll_files(directory: Path, *, visits: bool = False, change: dict[str, Any] | None = None) -> list[Path]:
    """Write pgroll's two migrations; the second is the one that is measured."""
    columns: list[dict[str, Any]] = [
        {"name": "id", "type": "serial", "pk": True},
        {"name": "name", "type": "varchar(255)", "nullable": True},
    ]
    if visits:
        columns.append({"name": "visits", "type": "integer", "default": "0"})
    up = f"SELECT {UP}"
    alter = {"table": "users", "column": "name", "up": up, "down": "name", "nullable": False}
    return [
        _written(directory / "01_create_table.json", [{"create_table": {"name": "users", "columns": columns}}]),
        _written(directory / "02_alter_column.json", [{"alter_column": change or alter}]),
    ]


def reshape_files(directory: Path) -> list[Path]:
    """Write reshape's two migrations; the second is the one that is measured."""
    columns = [{"name": "id", "type": "SERIAL"}, {"name": "name", "type": "VARCHAR(255)"}]
    create_users = {"type": "create_table", "name": "users", "primary_key": ["id"], "columns": columns}
    alter = {
        "type": "alter_column",
        "table": "users",
        "column": "name",
        "up": UP,
        "down": "name",
        "changes": {"nullable": False},
    }
    first, second = directory / "01_create_users.json", directory / "02_alter_name.json"
    for path, action in ((first, create_users), (second, alter)):
        path.write_text(json.dumps({"actions": [action]}))
    return [first, second]


async def update_all(conn: Connection, value: LiteralString = UP) -> float:
    """Write `name` of all rows where it is, by one UPDATE; gives the seconds, commit included."""
    began = time.perf_counter()
    await conn.execute(sql.SQL("UPDATE users SET name = {}").format(sql.SQL(value)))
    return time.perf_counter() - began


async def filled(dsn: str, column: str) -> tuple[int, int]:
    """Count all rows, and those that a column of `users` was not filled in."""
    async with await connect(dsn) as conn:
        query = sql.SQL("SELECT count(*), count(*) FILTER (WHERE {} IS NULL) FROM users").format(sql.Identifier(column))
        row = await (await conn.execute(query)).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


async def new_column(dsn: str) -> str:
    """Name the column that a tool fills beside `name`: by whatever name, it is the other one of that type."""
    async with await connect(dsn) as conn:
        found = await conn.execute(
            """
            SELECT attname FROM pg_attribute
             WHERE attrelid = 'users'::regclass AND attnum > 0 AND NOT attisdropped
               AND atttypid = 'varchar'::regtype AND attname <> 'name'
            """
        )
        rows = await found.fetchall()
    if len(rows) != 1:
        message = f"expected one column beside `name`, found {rows}"
        raise LookupError(message)
    return str(rows[0][0])


def _written(path: Path, operations: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"operations": operations}))
    return path
