"""What a design says of whole tables and of plain SQL: values only; `tables` and `scripts` render them."""

from typing import Literal

from psycopg import sql

from pgduet.operations.constraints import Check, ForeignKey
from pgduet.operations.expressions import Frozen


class _Named(Frozen):
    schema_name: str
    table: str

    @property
    def relation(self) -> sql.Identifier:
        """The table's quoted name."""
        return sql.Identifier(self.schema_name, self.table)

    @property
    def label(self) -> str:
        """The table's quoted name as text."""
        return self.relation.as_string(None)


class MadeColumn(Frozen):
    """A column of a created table."""

    name: str
    type: str
    nullable: bool
    default: str | None = None
    comment: str | None = None
    identity: Literal["always", "by default"] | None = None
    generated: str | None = None


class CreatedTable(_Named):
    """A table that the new version brings."""

    position: int
    columns: tuple[MadeColumn, ...]
    key: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    unique: tuple[tuple[str, str], ...] = ()
    """Column and constraint name."""
    whole: tuple[tuple[str, str], ...] = ()
    """Named constraints over the table, with their definition in SQL."""
    foreign_keys: tuple[ForeignKey, ...] = ()
    comment: str | None = None
    grants: tuple[tuple[str, tuple[str, ...]], ...] = ()


class DroppedTable(_Named):
    """A table that the new version does without."""

    position: int


class Script(Frozen):
    """SQL of the plan's author."""

    position: int
    up: str
    down: str | None
    at: Literal["expand", "contract"]
    tables: tuple[str, ...] = ()
