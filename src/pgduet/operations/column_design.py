"""The columns of a design: what comes, what goes, what stays under another name; and how two values of a type are compared.

Values only. `pgduet.operations.design` has the tables that they belong to.
"""

from typing import Literal

from psycopg import sql

from pgduet.operations.expressions import Expression, Frozen
from pgduet.operations.statement import Query, trusted

ROW = sql.SQL("t")
"""The alias under which statements read the table."""

BY_TEXT = frozenset({"json", "xml", "point", "polygon", "box", "path", "circle"})
"""Types that have no equality, or one that compares something else (an area): they are compared as text."""

Follows = Literal["default", "not_null", "comment"]
"""What the plan leaves to a column as it was: contract takes over what it is by then."""

_EXACT = frozenset(
    {
        *("smallint", "integer", "bigint", "oid", "boolean", "uuid", "bytea", "date", "timestamp", "time"),
        *("text", "character varying", "name"),
    }
)
_NO_LENGTH = ("character varying", "character", "bpchar", "varchar")


def image_differs(left: sql.Composable, right: sql.Composable, inexact: bool) -> Query:  # noqa: FBT001
    """Render that two values of one type are not the same; bit by bit for types whose equal values can differ."""
    template = "pg_catalog.record_image_ne(ROW({}), ROW({}))" if inexact else "({} IS DISTINCT FROM {})"
    return sql.SQL(template).format(left, right)


def is_exact(kind: str) -> bool:
    """Tell whether a type's equal values are the same bit by bit, as far as pgduet knows."""
    return kind.split("(", maxsplit=1)[0].removesuffix(" without time zone").removesuffix(" with time zone") in _EXACT


def without_length(kind: str) -> str:
    """Name the type to cast to: an explicit cast to varchar(n) or char(n) cuts silently where an assignment refuses."""
    base = next((base for base in _NO_LENGTH if kind.startswith(f"{base}(")), None)
    if base is None:
        return "bpchar" if kind == "character" else kind
    dimensions = kind[kind.index(")") + 1 :]
    return ("bpchar" if base == "character" else base) + dimensions


class NewColumn(Frozen):
    """A column in the making."""

    name: str
    physical: str
    type: str
    nullable: bool
    default: str | None = None
    comment: str | None = None
    up: Expression | None = None
    collation: str | None = None
    statistics: int | None = None
    grants: tuple[tuple[str, str], ...] = ()
    """Grantee (empty for everybody) and privilege, as they are on the column that it stands for."""
    follows: tuple[Follows, ...] = ()
    """What the plan leaves to it as the column has it that it stands for."""

    @property
    def sure(self) -> bool:
        """Tell that `up` gives every row a value."""
        return self.up is not None and self.up.always_becomes(self.type)

    def up_value(self, row: sql.Composable) -> sql.Composable:
        """Render `up` over a row, converted as an assignment to the column would convert it."""
        if self.up is None:
            return sql.SQL("NULL")
        return sql.SQL("({}::{})").format(self.up.over(row), trusted(without_length(self.type)))

    def differs(self, left: sql.Composable, right: sql.Composable) -> sql.Composable:
        """Render `left IS DISTINCT FROM right`, by text for types that have no equality (or one that lies)."""
        template = "({}::text IS DISTINCT FROM {}::text)" if self.type in BY_TEXT else "({} IS DISTINCT FROM {})"
        return sql.SQL(template).format(left, right)

    def of(self, row: sql.Composable) -> sql.Composable:
        """Render the physical column of a row."""
        return sql.SQL("{}.{}").format(row, sql.Identifier(self.physical))


class OldColumn(Frozen):
    """A column that the new version does without."""

    name: str
    type: str
    not_null: bool
    down: Expression | None = None
    """Nothing for a dropped column that keeps its own default."""

    @property
    def sure(self) -> bool:
        """Tell that `down` gives every row a value."""
        return self.down is None or self.down.always_becomes(self.type)

    def down_value(self, row: sql.Composable, renamed: dict[str, str] | None = None) -> sql.Composable:
        """Render `down` over a row of the new version."""
        return self.down.over(row, renamed=renamed) if self.down else sql.SQL("NULL")

    def of(self, row: sql.Composable) -> sql.Composable:
        """Render the column of a row."""
        return sql.SQL("{}.{}").format(row, sql.Identifier(self.name))


class Alias(Frozen):
    """A column that stays the same data, under another name, with another default or another comment in the new version."""

    name: str
    new_name: str
    type: str
    position: int
    default: str | None = None
    """PostgreSQL's text; `NULL` takes the default away."""
    comment: str | None = None


class ColumnMapping(Frozen):
    """One operation on one table: new columns, and the old ones that they replace.

    No old ones where a column is added, no new ones where one is dropped.
    """

    kind: Literal[
        "add_column", "replace_columns", "alter_column", "drop_column", "create_constraint", "drop_constraint"
    ]
    position: int
    columns: tuple[NewColumn, ...]
    replaces: tuple[OldColumn, ...] = ()

    @property
    def mirrors(self) -> bool:
        """Tell whether each side can be derived from the other."""
        return bool(self.columns and self.replaces)

    @property
    def pairs(self) -> tuple[tuple[OldColumn, NewColumn], ...]:
        """Each old column with the new one that takes its place, where it has one of its own."""
        if self.kind in {"alter_column", "create_constraint", "drop_constraint"}:
            return tuple(zip(self.replaces, self.columns, strict=True))
        return ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The columns from which the new ones are derived."""
        names = [old.name for old in self.replaces]
        names += [name for column in self.columns if column.up for name in column.up.columns]
        return tuple(dict.fromkeys(names))

    @property
    def derived(self) -> tuple[NewColumn, ...]:
        """The new columns that `up` fills."""
        return tuple(column for column in self.columns if column.up is not None)
