"""Columns in a plan, and the constraints that a column may bring: check, unique, references.

A constraint may be written short (an expression, `true`, `schema.table(column)`) or as a mapping that also names it. It binds
clients of the new version from publication on, and everybody from cutover on.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pgduet.plan.names import Identifier, NewName, TableName, TableText, Text, parse_table
from pgduet.plan.policy import Part
from pgduet.plan.problems import Problem, refuse

Action = Literal["no action", "restrict", "cascade", "set null", "set default"]


class Check(Part):
    """A condition over the new version's row that must not be false."""

    expression: Text
    name: NewName | None = None


class Unique(Part):
    """No two rows have the same value."""

    name: NewName | None = None


class References(Part):
    """A foreign key; without `column` it points to the table's primary key."""

    table: TableText
    column: Identifier | None = None
    name: NewName | None = None
    on_delete: Action = "no action"
    on_update: Action = "no action"

    @property
    def relation(self) -> TableName:
        """The referenced table's schema and name."""
        return parse_table(self.table)


def _check(value: object) -> object:
    return {"expression": value} if isinstance(value, str) else value


def _unique(value: object) -> object:
    if value is False:
        return None
    return {} if value is True else value


def _references(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r'\s*(.+?)\s*(?:\(\s*(?:"((?:[^"]|"")+)"|([^")]+?))\s*\))?\s*', value)
    if found is None:
        refuse(Problem(f"`{value}` names no table", hint="Write `schema.table(column)`, or a mapping with `table`."))
    quoted, plain = found[2], found[3]
    return {"table": found[1], "column": quoted.replace('""', '"') if quoted is not None else plain}


CheckGiven = Annotated[Check | None, BeforeValidator(_check)]
UniqueGiven = Annotated[Unique | None, BeforeValidator(_unique)]
ReferencesGiven = Annotated[References | None, BeforeValidator(_references)]


_LATER = frozenset({"check", "unique", "references", "generated"})
"""Keys that came later than the rest: in a dump, from which a plan's checksum is made, they stand only where they are given."""


class Constrained(Part):
    """What may bring constraints."""

    check: CheckGiven = None
    unique: UniqueGiven = None
    references: ReferencesGiven = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value is not None or name not in _LATER}


class NewColumn(Constrained):
    """A column that the new version has. `default` and `up` are SQL expressions; `up` reads the old columns."""

    name: NewName
    type: Text
    nullable: Annotated[bool, Field(strict=True)] = True
    default: Text | None = None
    up: Text | None = None
    comment: str | None = None


class TableColumn(Constrained):
    """A column of a table that the new version brings."""

    name: NewName
    type: Text
    nullable: Annotated[bool, Field(strict=True)] = True
    default: Text | None = None
    comment: str | None = None
    primary_key: Annotated[bool, Field(strict=True)] = False
    identity: Literal["always", "by default"] | None = None
    generated: Text | None = None
    """What the column is computed from, by PostgreSQL and for good."""

    @model_validator(mode="after")
    def _one_source(self) -> "TableColumn":
        hint = "Delete one of the two keys."
        if self.identity and self.default is not None:
            refuse(Problem("a column numbers itself or has a default, not both", at=("default",), hint=hint))
        if self.generated is not None and (self.identity or self.default is not None):
            other = "identity" if self.identity else "default"
            message = "a column is generated, or numbers itself, or has a default: one of them"
            refuse(Problem(message, at=(other,), hint=hint))
        return self
