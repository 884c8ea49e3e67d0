"""The models of a plan file: closed, frozen, and dumped in the shape of the file.

An operation is written as a mapping with one key, its name; in Python that key is the model's `kind`. The models
check what can be known without a database; a problem says where it is by path, and `explain` finds the line. Limits:
texts of SQL are not parsed, and names of tables and columns are not looked up.
"""

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pgduet.errors import DownIncomplete, NotSupported
from pgduet.plan.names import (
    Database,
    Identifier,
    Label,
    NewName,
    TableName,
    TableText,
    Text,
    Version,
    later,
    parse_table,
)
from pgduet.plan.policy import Part, Policy
from pgduet.plan.problems import KeyPath, Problem, did_you_mean, listed, refuse

__all__ = [
    "AddColumn",
    "Milestone",
    "NewColumn",
    "Operation",
    "Plan",
    "Policy",
    "ReplaceColumns",
    "Risk",
    "TableName",
    "VersionChange",
    "parse_table",
]

IMPLEMENTED = ("add_column", "replace_columns")
KNOWN_OPERATIONS = (
    "create_table",
    "drop_table",
    "rename_table",
    "add_column",
    "drop_column",
    "rename_column",
    "alter_column",
    "replace_columns",
    "create_index",
    "drop_index",
    "create_constraint",
    "rename_constraint",
    "drop_constraint",
    "set_replica_identity",
    "sql",
    "shadow_table",
    "extract_table",
    "merge_rows",
    "move_table",
)


class VersionChange(Part):
    """The version that clients leave and the one they move to."""

    from_: Version = Field(alias="from")
    to: Version

    @model_validator(mode="after")
    def _differs(self) -> "VersionChange":
        if self.from_ == self.to:
            refuse(Problem(f"expected a version other than `from`, got `{self.to}` for both", at=("to",)))
        return self


class NewColumn(Part):
    """A column that the new version has. `default` and `up` are SQL expressions; `up` reads the old columns."""

    name: NewName
    type: Text
    nullable: Annotated[bool, Field(strict=True)] = True
    default: Text | None = None
    up: Text | None = None
    comment: str | None = None


class _OnTable(Part):
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


class AddColumn(_OnTable):
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


class ReplaceColumns(_OnTable):
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


def _named(value: object) -> object:
    """Turn `{add_column: {…}}` into the model's fields, or say why it is no operation of this version."""
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        keys = f"{len(value)} keys: {listed([str(key) for key in value])}" if value else "none"
        refuse(
            Problem(
                f"expected an operation with exactly one key, its name; got {keys}",
                hint="Indent the operation's own keys below its name, and begin each operation with `- `.",
            )
        )
    [(name, fields)] = value.items()
    if name not in KNOWN_OPERATIONS:
        known = f"Known operations: {listed(list(KNOWN_OPERATIONS))}."
        near = did_you_mean(str(name), list(KNOWN_OPERATIONS))
        refuse(Problem(f"unknown operation `{name}`{near}", at=(name,), hint=known, on_key=True))
    if name not in IMPLEMENTED:
        instead = f"This version has {listed(list(IMPLEMENTED))}."
        refuse(later(f"operation `{name}`", at=(name,), on_key=True, instead=instead))
    if not isinstance(fields, dict):
        refuse(Problem(f"expected the keys of `{name}` as a mapping", at=(name,), hint="Indent them below its name."))
    if "kind" in fields:
        refuse(Problem("unknown key `kind`", at=(name, "kind"), on_key=True))
    return {**fields, "kind": name}


Operation = Annotated[Annotated[AddColumn | ReplaceColumns, Field(discriminator="kind")], BeforeValidator(_named)]


class Risk(Part):
    """Something that could go wrong, what is done about it, and by whom."""

    risk: Text
    mitigation: Text
    owner: Text


def _day(value: object) -> object:
    # pydantic would take a number for seconds since 1970.
    return str(value) if isinstance(value, int | float) else value


class Milestone(Part):
    """A date in the migration's calendar."""

    name: Text
    due: Annotated[date, BeforeValidator(_day)]


class Plan(Part):
    """One migration, as its file declares it."""

    name: Label
    database: Database
    version: VersionChange
    description: str = ""
    owners: dict[str, Text] = Field(default_factory=dict)
    operations: Annotated[tuple[Operation, ...], Field(min_length=1)]
    policy: Policy = Policy()
    risks: tuple[Risk, ...] = ()
    milestones: tuple[Milestone, ...] = ()

    @model_validator(mode="after")
    def _each_column_once(self) -> "Plan":
        problems = [*_repeated(self._added(), "is added to"), *_repeated(self._replaced(), "is replaced in")]
        if problems:
            refuse(*problems)
        return self

    def tables(self) -> tuple[TableName, ...]:
        """The tables that the plan changes, each once, in the plan's order."""
        return tuple(dict.fromkeys(operation.relation for operation in self.operations))

    def _added(self) -> Iterator[tuple[TableName, str, KeyPath]]:
        for index, operation in enumerate(self.operations):
            top: KeyPath = ("operations", index, operation.kind)
            if isinstance(operation, AddColumn):
                yield operation.relation, operation.column.name, (*top, "column", "name")
                continue
            for position, column in enumerate(operation.columns):
                yield operation.relation, column.name, (*top, "columns", position, "name")

    def _replaced(self) -> Iterator[tuple[TableName, str, KeyPath]]:
        for index, operation in enumerate(self.operations):
            if isinstance(operation, ReplaceColumns):
                for position, name in enumerate(operation.replaces):
                    yield operation.relation, name, ("operations", index, operation.kind, "replaces", position)


def _repeated(columns: Iterator[tuple[TableName, str, KeyPath]], what: str) -> Iterator[Problem]:
    first: dict[tuple[TableName, str], KeyPath] = {}
    for table, name, path in columns:
        seen = first.setdefault((table, name), path)
        if seen != path:
            yield Problem(f"`{name}` {what} {table} twice", at=path, hint="Delete one of them.", elsewhere=seen)
