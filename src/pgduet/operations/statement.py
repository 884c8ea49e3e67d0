"""A statement is a value: what to run, which lock it takes on what, and a line that says why."""

from dataclasses import dataclass
from enum import StrEnum
from typing import LiteralString, cast

from psycopg import sql

Query = sql.SQL | sql.Composed
"""What a connection executes."""


class Lock(StrEnum):
    """Table locks in PostgreSQL's own words, as far as migrations meet them."""

    NONE = "none"
    ROW_EXCLUSIVE = "ROW EXCLUSIVE"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement with what it locks (`relation` is a quoted name with its schema)."""

    sql: Query
    summary: str
    lock: Lock = Lock.NONE
    relation: str | None = None

    def text(self) -> str:
        """Render the statement as PostgreSQL will get it."""
        return self.sql.as_string()


def trusted(text: str) -> sql.SQL:
    """Take SQL text that PostgreSQL itself has parsed and deparsed, or that a plan's author wrote, as it is.

    Nothing else may come this way: names go through `sql.Identifier`, values through `sql.Literal`.
    """
    return sql.SQL(cast("LiteralString", text))  # type: ignore[redundant-cast]
