"""A statement is a value: what to run, which lock it takes on what, and a line that says why."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import LiteralString, Protocol, cast

from psycopg import sql

from pgduet.sql import block

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
    taking: Query | None = None
    """What takes the lock where `LOCK TABLE` would not do: it locks all that a view reads as well, with the rights of its owner."""

    theirs: bool = False
    """It is the user's own text, which may be about rows: what it raises is not repeated."""

    def text(self) -> str:
        """Render the statement as PostgreSQL will get it."""
        return self.sql.as_string()


_BLOCKS = {
    Lock.ROW_EXCLUSIVE: "row_exclusive",
    Lock.SHARE_UPDATE_EXCLUSIVE: "share_update_exclusive",
    Lock.SHARE_ROW_EXCLUSIVE: "share_row_exclusive",
    Lock.ACCESS_EXCLUSIVE: "access_exclusive",
}


def lock_table(relation: sql.Composable, lock: Lock) -> Query:
    """Render what locks a table and its partitions, or a view and all that it reads."""
    return block("locks", _BLOCKS[lock]).format(relation=relation)


def locking(relation: sql.Identifier, lock: Lock) -> Statement:
    """Declare a lock that another statement takes by the way, on a table that it does not name."""
    label = relation.as_string(None)
    return Statement(lock_table(relation, lock), f"lock {label}", lock, label)


def trusted(text: str) -> sql.SQL:
    """Take SQL text that PostgreSQL itself has parsed and deparsed, or that a plan's author wrote, as it is.

    Nothing else may come this way: names go through `sql.Identifier`, values through `sql.Literal`.
    """
    return sql.SQL(cast("LiteralString", text))  # type: ignore[redundant-cast]


def identifiers(names: Iterable[str]) -> Query:
    """Render names, quoted and with commas between them."""
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


class Table(Protocol):
    """What has a quoted name."""

    @property
    def relation(self) -> sql.Identifier:
        """The table's quoted name."""

    @property
    def label(self) -> str:
        """The table's quoted name as text."""


PUBLIC = ""
"""How a grant to everybody names its grantee."""


class Role(sql.Identifier):
    """A role's name: it may be the one that the worker connects as, which traces do not show."""


def role(name: str) -> sql.Composable:
    """Render a grantee."""
    return sql.SQL("PUBLIC") if name == PUBLIC else Role(name)


def on_table(table: Table, file: str, name: str, summary: str, lock: Lock, /, **parts: sql.Composable) -> Statement:
    """Make a statement of a block that has `{relation}`."""
    query = block(file, name).format(relation=table.relation, **parts)
    return Statement(query, f"{summary} ({table.label})", lock, table.label)
