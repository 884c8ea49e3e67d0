"""Constraints and indexes of the new version: values of the design.

Those of a column that is made anew bear working names until contract, since the old column's own still have the proper ones. One
that the plan creates, and whose name is free, has it from cutover on (`at_once`), so that clients can use it by name. `names` maps
the columns of an expression to those of the table.
"""

from collections.abc import Sequence
from typing import Literal

from psycopg import sql

from pgduet.operations.expressions import Expression, Frozen
from pgduet.operations.statement import Query, identifiers, trusted

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
    at_once: bool = False
    no_inherit: bool = False

    def holds(self, row: sql.Composable) -> sql.Composable:
        """Render the check over a row: NULL and true are fine."""
        return self.expression.over(row, renamed=self.names)

    def definition(self) -> Query:
        """Render the constraint over the table's own columns."""
        end = sql.SQL(" NO INHERIT" if self.no_inherit else "")
        return sql.SQL("CHECK ({}){}").format(self.expression.alone(self.names), end)


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
    at_once: bool = False
    match_full: bool = False
    deferrable: bool = False

    @property
    def target_relation(self) -> sql.Identifier:
        """The referenced table's quoted name."""
        return sql.Identifier(self.target_schema, self.target)

    def orphan(self, row: sql.Composable) -> Query:
        """Render that a row points to nothing."""
        values = [sql.SQL("{}.{}").format(row, sql.Identifier(name)) for name in self.columns]
        same = [
            sql.SQL("r.{} = {}.{}").format(sql.Identifier(target), row, sql.Identifier(name))
            for name, target in zip(self.columns, self.target_columns, strict=True)
        ]
        missing = sql.SQL("NOT EXISTS (SELECT FROM {} AS r WHERE {})").format(
            self.target_relation, sql.SQL(" AND ").join(same)
        )
        return self.broken(values, missing)

    def broken(self, values: Sequence[sql.Composable], missing: sql.Composable) -> Query:
        """Render that values break the key, where `missing` tells that the target has no such row."""
        filled = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(value) for value in values)
        if not self.match_full or len(values) == 1:
            return sql.SQL("({} AND {})").format(filled, missing)
        given = sql.SQL(" OR ").join(sql.SQL("{} IS NOT NULL").format(value) for value in values)
        return sql.SQL("(({}) AND NOT ({} AND NOT {}))").format(given, filled, missing)

    def definition(self) -> Query:
        """Render the constraint."""
        names = identifiers(self.columns)
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
    """The physical columns of a uniqueness that the plan asks for; empty where the index was the old column's."""
    shown: str = ""
    primary: bool = False
    at_once: bool = False
    position: int | None = None
    """The `create_index` that asks for it."""
    first: bool = False
    """Built in expand already: all its columns are there, and it binds nobody."""
    key: bool = False
    """It takes the primary key's place at contract, and is there from before publication on: by it new clients name rows."""
    keys: tuple[str, ...] = ()
    """What must differ between rows, in PostgreSQL's words, where a unique index is carried over or asked for by `create_index`."""
    predicate: str | None = None
    nulls_distinct: bool = True

    @property
    def counted(self) -> bool:
        """Tell whether rows may break it: they are counted until it is there."""
        return bool(self.brought or self.keys)

    def filled(self, values: Sequence[sql.Composable]) -> Query:
        """Render that values can be duplicates at all: by the standard, none that is NULL can."""
        conditions: list[Query] = (
            [sql.SQL("{} IS NOT NULL").format(value) for value in values] if self.nulls_distinct else []
        )
        if self.predicate is not None:
            conditions.append(sql.SQL("({})").format(trusted(self.predicate)))
        return sql.SQL(" AND ").join(conditions or [sql.SQL("true")])


class Exclusion(Frozen):
    """An exclusion constraint; `elements` pairs what is compared with the operator, in PostgreSQL's words for the table."""

    name: str
    working: str
    definition: str
    elements: tuple[tuple[str, str], ...]
    where: str | None = None
    at_once: bool = False


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
