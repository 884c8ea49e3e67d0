"""The design of a merge: groups of rows of a table, the source, become one row each of another, the target (ADR 32).

A group is what has the same key; each other column is one measure over the group's rows. Like every design it holds names and
expressions, no oids. What it may say is narrow for a reason: no measure can raise, and none depends on the order of the rows, so
the target can be made again at any time by whoever looks at the group.
"""

import hashlib
from typing import Literal

from psycopg import sql

from pgduet.operations.column_design import is_exact
from pgduet.operations.expressions import Expression, Frozen
from pgduet.operations.names import fit
from pgduet.operations.statement import Query, trusted

Measure = Literal["count", "sum", "min", "max"]


class GroupKey(Frozen):
    """A column by which rows are merged: NOT NULL, of a type whose equal values are the same bit by bit."""

    source: str
    target: str
    type: str


class MergedColumn(Frozen):
    """A column of the target: a measure of the group, of the type that PostgreSQL gives it."""

    name: str
    type: str
    measure: Measure
    value: Expression | None = None
    """Over one row of the source; nothing where rows are counted."""

    def over(self, row: sql.Composable) -> Query:
        """Render the measure over the rows of a group."""
        value: sql.Composable = sql.SQL("*") if self.value is None else self.value.over(row)
        return sql.SQL("{}({})::{}").format(trusted(self.measure), value, trusted(self.type))


class SourceColumn(Frozen):
    """A column of the source that a merged row is made from."""

    name: str
    type: str

    @property
    def exact(self) -> bool:
        """Tell whether its equal values are the same bit by bit."""
        return is_exact(self.type)


class AddedColumn(Frozen):
    """A column of the row that a new client's write adds to the source: an expression over what it adds to the merged row."""

    name: str
    type: str
    down: Expression


class MergeDesign(Frozen):
    """A table whose rows are merged, and the table of what they come to."""

    position: int
    schema_name: str
    table: str
    """The source."""
    physical: str
    """The target's name until contract, in the source's schema."""
    shown_as: str
    """What the new version calls the target."""
    key: tuple[GroupKey, ...]
    columns: tuple[MergedColumn, ...]
    reads: tuple[SourceColumn, ...] = ()
    """What the measures read, apart from the key."""
    known: tuple[str, ...] = ()
    """All columns that the source had at preflight; nothing in a design that was made before they were noted."""
    index: str | None = None
    """An index of ours over the key, where the source has none."""

    adds: tuple[AddedColumn, ...] = ()
    """What a new client's write is for old clients; nothing where merged rows are read-only until contract."""

    @property
    def writable(self) -> bool:
        """Tell whether new clients may write before contract."""
        return bool(self.adds)

    @property
    def locks(self) -> sql.Identifier:
        """The table whose rows keep new clients apart who write one group."""
        return sql.Identifier("pgduet", fit(f"locks_{self.schema_name}.{self.physical}"))

    @property
    def flag(self) -> str:
        """The setting by which the view knows that it is read to be written."""
        number = hashlib.sha256(self.target_label.encode()).hexdigest()[:12]
        return f"pgduet.merging_{number}"

    @property
    def relation(self) -> sql.Identifier:
        """The source's quoted name."""
        return sql.Identifier(self.schema_name, self.table)

    @property
    def label(self) -> str:
        """The source's quoted name as text."""
        return self.relation.as_string(None)

    @property
    def target(self) -> sql.Identifier:
        """The target's quoted name."""
        return sql.Identifier(self.schema_name, self.physical)

    @property
    def target_label(self) -> str:
        """The target's quoted name as text."""
        return self.target.as_string(None)

    @property
    def own(self) -> frozenset[str]:
        """The quoted names of what is ours in the user's schema until contract: no version shows it as a table."""
        return frozenset([self.target_label])

    @property
    def touched(self) -> frozenset[str]:
        """The quoted names of all tables that it changes or brings."""
        final = sql.Identifier(self.schema_name, self.shown_as).as_string(None)
        return frozenset([self.label, self.target_label, final])

    @property
    def journal(self) -> sql.Identifier:
        """The table that notes which groups have changed."""
        return sql.Identifier("pgduet", fit(f"journal_{self.schema_name}.{self.physical}"))

    @property
    def key_name(self) -> str:
        """What the key of the merged table, and its index, are called from contract on."""
        return fit(f"{self.shown_as}_pkey")

    def routine(self, kind: str) -> sql.Identifier:
        """Name one of the merge's functions."""
        return sql.Identifier("pgduet", self.routine_name(kind))

    def routine_name(self, kind: str) -> str:
        """Name one of the merge's functions, without its schema."""
        return fit(f"{kind}_{self.schema_name}.{self.physical}")

    @property
    def source_key(self) -> tuple[str, ...]:
        """The source's columns of the key."""
        return tuple(column.source for column in self.key)

    @property
    def target_key(self) -> tuple[str, ...]:
        """The target's columns of the key; the journal's have these names, too."""
        return tuple(column.target for column in self.key)

    @property
    def names(self) -> tuple[str, ...]:
        """The target's columns."""
        return (*self.target_key, *(column.name for column in self.columns))
