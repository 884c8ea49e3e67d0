"""Constraints and indexes of the new version: values of the design.

Until contract they bear working names, since the old column's own still have the proper ones. `names` maps the columns of an
expression to those of the table.
"""

from typing import Literal

from psycopg import sql

from pgduet.operations.expressions import Expression, Frozen
from pgduet.operations.statement import Query, trusted

Identity = Literal["default", "full", "nothing", "index"]


class Check(Frozen):
    """A check constraint."""

    name: str
    working: str
    shown: str
    """The new version's column that brings it, for messages."""
    expression: Expression
    names: dict[str, str] = {}  # noqa: RUF012  (pydantic copies defaults)
    carried: bool = False

    def holds(self, row: sql.Composable) -> sql.Composable:
        """Render the check over a row: NULL and true are fine."""
        return self.expression.over(row, renamed=self.names)

    def definition(self) -> Query:
        """Render the constraint over the table's own columns."""
        return sql.SQL("CHECK ({})").format(self.expression.alone(self.names))


class ForeignKey(Frozen):
    """A foreign key; `rest` is what follows the column list, in PostgreSQL's words."""

    name: str
    working: str
    columns: tuple[str, ...]
    target_schema: str
    target: str
    target_columns: tuple[str, ...]
    rest: str
    shown: str
    carried: bool = False

    @property
    def target_relation(self) -> sql.Identifier:
        """The referenced table's quoted name."""
        return sql.Identifier(self.target_schema, self.target)

    def orphan(self, row: sql.Composable) -> Query:
        """Render that a row points to nothing."""
        filled = [sql.SQL("{}.{} IS NOT NULL").format(row, sql.Identifier(name)) for name in self.columns]
        same = [
            sql.SQL("r.{} = {}.{}").format(sql.Identifier(target), row, sql.Identifier(name))
            for name, target in zip(self.columns, self.target_columns, strict=True)
        ]
        return sql.SQL("({} AND NOT EXISTS (SELECT FROM {} AS r WHERE {}))").format(
            sql.SQL(" AND ").join(filled), self.target_relation, sql.SQL(" AND ").join(same)
        )

    def definition(self) -> Query:
        """Render the constraint."""
        names = sql.SQL(", ").join(sql.Identifier(name) for name in self.columns)
        return sql.SQL("FOREIGN KEY ({}) {}").format(names, trusted(self.rest))


class CarriedIndex(Frozen):
    """An index of the old column made anew for the new one, or one that the plan asks for.

    `definition` begins after `ON <table> `, over the table's own columns.
    """

    name: str
    working: str
    definition: str
    unique: bool
    constraint: bool
    deferrable: bool = False
    deferred: bool = False
    brought: tuple[str, ...] = ()
    """The physical column of a uniqueness that the plan asks for; empty where the index was the old column's."""
    shown: str = ""
    position: int | None = None
    """The `create_index` that asks for it."""
    first: bool = False
    """Built in expand already: all its columns are there, and it binds nobody."""
    keys: tuple[str, ...] = ()
    """What must differ between rows, as PostgreSQL writes it, where a unique index is asked for by `create_index`."""
    predicate: str | None = None
    nulls_distinct: bool = True


class DroppedIndex(Frozen):
    """An index that the new version does without; `table` is its table's quoted name."""

    schema_name: str
    name: str
    table: str
    position: int

    @property
    def label(self) -> str:
        """The index's quoted name as text."""
        return sql.Identifier(self.schema_name, self.name).as_string(None)


class ReplicaIdentity(Frozen):
    """By what logical replication is to name rows, and by what it did; an index goes by its name."""

    identity: Identity
    index: str | None = None
    was: Identity
    was_index: str | None = None
    columns: tuple[str, ...] = ()
    """The table's own columns by which rows will be named; none for `full` and `nothing`."""
    position: int

    @property
    def widens(self) -> bool:
        """Tell whether it takes nothing away from anybody who reads the changes."""
        return self.identity == "full"
