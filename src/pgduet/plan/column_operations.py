"""Operations on the columns of a table that both versions have.

The models check what can be known without a database. An operation is dumped as the file has it: a mapping with one key.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pgduet.errors import DownIncomplete, NotSupported
from pgduet.plan.columns import CheckGiven, NewColumn, ReferencesGiven, UniqueGiven
from pgduet.plan.names import Identifier, NewName, TableName, TableText, Text, parse_table
from pgduet.plan.policy import Part
from pgduet.plan.problems import Problem, did_you_mean, listed, refuse


class OnTable(Part):
    """An operation on one table, dumped as the file has it: `{<kind>: {…}}`."""

    table: TableText

    @property
    def relation(self) -> TableName:
        """The table's schema and name, unquoted and folded as PostgreSQL does."""
        return parse_table(self.table)

    @model_serializer(mode="wrap")
    def _under_its_name(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = dump(self)
        return {fields.pop("kind"): fields}


def either(value: Any, wanted: str, also: str) -> Any:
    """Take a key by its other usual name."""
    if isinstance(value, dict) and also in value and wanted not in value:
        return {wanted if key == also else key: given for key, given in value.items()}
    return value


class AddColumn(OnTable):
    """A column that only the new version knows; with `up`, existing rows get its value."""

    kind: Literal["add_column"] = "add_column"
    column: NewColumn

    @property
    def columns(self) -> tuple[NewColumn, ...]:
        """The new column, in the shape that `ReplaceColumns` has."""
        return (self.column,)

    @field_validator("column")
    @classmethod
    def _can_be_filled(cls, column: NewColumn) -> NewColumn:
        if not column.nullable and column.up is None and column.default is None:
            refuse(
                Problem(
                    f"`{column.name}` must not be empty, but the rows that exist would have no value for it",
                    hint="Give it `up` or `default`, or let it be empty: `nullable: true`.",
                )
            )
        return column


class ReplaceColumns(OnTable):
    """N old columns that M new ones stand for: `up` maps old to new, `down` new to old."""

    kind: Literal["replace_columns"] = "replace_columns"
    columns: Annotated[tuple[NewColumn, ...], Field(min_length=1)]
    replaces: Annotated[tuple[Identifier, ...], Field(min_length=1)]
    down: dict[str, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _maps_both_ways(self) -> "ReplaceColumns":
        problems = [*self._ups(), *self._downs()]
        if problems:
            refuse(*problems)
        return self

    def _ups(self) -> Iterator[Problem]:
        for index, column in enumerate(self.columns):
            if column.up is None:
                yield Problem(
                    f"`{column.name}` has no `up`, so nothing says what existing rows get",
                    at=("columns", index, "up"),
                    hint=f"Add `up: <SQL expression>` over {listed(list(self.replaces))}.",
                )
            if column.default is not None:
                yield Problem(
                    "a default of a column that replaces others is not in this version",
                    at=("columns", index, "default"),
                    error=NotSupported,
                    hint="Delete the key: `up` gives the value for every row.",
                )

    def _downs(self) -> Iterator[Problem]:
        missing = [name for name in dict.fromkeys(self.replaces) if name not in self.down]
        if missing:
            cure = " and ".join(f"`{name}: <SQL expression>`" for name in missing)
            yield Problem(
                f"`down` has no expression for {listed(missing)}",
                at=("down",),
                error=DownIncomplete,
                hint=f"Add {cure} over {listed([column.name for column in self.columns])}.",
            )
        for name in self.down:
            if name not in self.replaces:
                message = f"`{name}` is not a replaced column{did_you_mean(name, list(self.replaces))}"
                yield Problem(
                    message,
                    at=("down", name),
                    hint="Delete the key, or add the column to `replaces`.",
                    on_key=True,
                )


class AlterColumn(OnTable):
    """A column that changes: its type, whether it may be empty, its default, constraints, comment or name.

    `up` and `down` map between the old and the new value; left out, the value is the same, converted to the other type.
    A default of `NULL` takes the default away, an empty comment the comment.
    """

    kind: Literal["alter_column"] = "alter_column"
    column: Identifier
    name: NewName | None = None
    type: Text | None = None
    nullable: Annotated[bool, Field(strict=True)] | None = None
    default: Text | None = None
    check: CheckGiven = None
    unique: UniqueGiven = None
    references: ReferencesGiven = None
    comment: str | None = None
    up: Text | None = None
    down: Text | None = None

    @property
    def new_name(self) -> str:
        """What the new version calls the column."""
        return self.name or self.column

    @model_validator(mode="after")
    def _changes_something(self) -> "AlterColumn":
        changes = ("name", "type", "nullable", "default", "check", "unique", "references", "comment", "up", "down")
        if all(getattr(self, change) is None for change in changes):
            empty = 'An empty key changes nothing: `default: "NULL"` takes a default away, `comment: ""` a comment.'
            hint = f"Give at least one of {listed(list(changes))}. {empty}"
            refuse(Problem(f"nothing of `{self.column}` changes", hint=hint))
        return self


class RenameColumn(OnTable):
    """A column that has another name in the new version; until contract the table keeps the old one."""

    kind: Literal["rename_column"] = "rename_column"
    column: Identifier
    to: NewName

    @model_validator(mode="before")
    @classmethod
    def _said_otherwise(cls, value: Any) -> Any:
        return either(either(value, "column", "from"), "to", "name")

    @model_validator(mode="after")
    def _differs(self) -> "RenameColumn":
        if self.column == self.to:
            refuse(Problem(f"`{self.column}` has this name already", at=("to",), hint="Choose another name."))
        return self


class DropColumn(OnTable):
    """A column that the new version does without; `down` gives rows that new clients insert their old value."""

    kind: Literal["drop_column"] = "drop_column"
    column: Identifier
    down: Text | None = None
