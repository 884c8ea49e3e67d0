"""Operations on a table's constraints: created, dropped, renamed.

With `up` or `down` for a column, that column gets a second form: what one version's clients write is mapped for the other's.
Without them no data move; then a new constraint binds everybody from cutover on, and a dropped one until contract.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pgduet.errors import NotSupported
from pgduet.plan.column_operations import OnTable, either
from pgduet.plan.columns import Action
from pgduet.plan.names import Identifier, NewName, TableName, TableText, Text, later, parse_table
from pgduet.plan.policy import Part
from pgduet.plan.problems import Problem, did_you_mean, listed, refuse

Kind = Literal["check", "unique", "foreign_key", "exclude", "primary_key"]
Flag = Annotated[bool, Field(strict=True)]

_KEYS: dict[str, tuple[str, ...]] = {
    "check": ("check", "no_inherit", "columns", "up", "down"),
    "unique": ("columns", "include", "nulls_not_distinct", "deferrable", "initially_deferred", "up", "down"),
    "foreign_key": ("columns", "references", "deferrable", "initially_deferred", "up", "down"),
    "exclude": ("exclude", "include", "deferrable", "initially_deferred"),
    "primary_key": ("columns", "include", "deferrable", "initially_deferred", "up", "down"),
}
_NEEDS: dict[str, tuple[str, ...]] = {
    "check": ("check",),
    "unique": ("columns",),
    "foreign_key": ("columns", "references"),
    "exclude": ("exclude",),
    "primary_key": ("columns",),
}


def _by_column(value: object) -> object:
    if isinstance(value, str):
        hint = "Write `<column>: <SQL expression>` below it, a line for each column."
        refuse(Problem("expected a mapping of columns to expressions, got one expression", hint=hint))
    return value


ByColumn = Annotated[dict[Identifier, Text], BeforeValidator(_by_column)]


class TableReferences(Part):
    """What a foreign key points to; without `columns` it is the table's primary key."""

    table: TableText
    columns: tuple[Identifier, ...] = ()
    on_delete: Action = "no action"
    on_delete_set_columns: tuple[Identifier, ...] = ()
    on_update: Action = "no action"
    match: Literal["simple", "full"] = "simple"

    @property
    def relation(self) -> TableName:
        """The referenced table's schema and name."""
        return parse_table(self.table)


class Exclude(Part):
    """Rows of which no two may compare true by all operators; `elements` is SQL: `room WITH =, during WITH &&`."""

    method: Identifier = "gist"
    elements: Text
    where: Text | None = None


class TableConstraint(Part):
    """A constraint of a table."""

    name: NewName
    type: Kind
    columns: tuple[Identifier, ...] = ()
    nulls_not_distinct: Flag = False
    include: tuple[Identifier, ...] = ()
    check: Text | None = None
    no_inherit: Flag = False
    references: TableReferences | None = None
    exclude: Exclude | None = None
    deferrable: Flag = False
    initially_deferred: Flag = False

    @property
    def timing(self) -> str:
        """When it is checked, in SQL."""
        return "INITIALLY DEFERRED" if self.initially_deferred else "DEFERRABLE" if self.deferrable else ""

    @property
    def on_index(self) -> bool:
        """Tell whether it stands on an index, which has its name in the schema."""
        return self.type in {"unique", "primary_key", "exclude"}

    @model_validator(mode="after")
    def _fits_its_type(self) -> "TableConstraint":
        problems = list(self._problems())
        if problems:
            refuse(*problems)
        return self

    def _problems(self) -> Iterator[Problem]:
        yield from self._keys()
        yield from self._referring()
        for index, name in enumerate(self.columns):
            if name in self.columns[:index]:
                yield Problem(f"`{name}` stands twice", at=("columns", index), hint="Delete one of them.")

    def _keys(self) -> Iterator[Problem]:
        for key in _NEEDS[self.type]:
            if not getattr(self, key):
                yield Problem(f"a constraint of type `{self.type}` needs `{key}`", at=(key,), hint=f"Add `{key}: …`.")
        given = set(TableConstraint.model_fields) - {"name", "type"}
        for key in sorted(key for key in given if getattr(self, key)):
            if key not in _KEYS[self.type]:
                hint = f"Delete the key; this type has {listed(list(_KEYS[self.type]))}."
                yield Problem(
                    f"`{key}` is not for a constraint of type `{self.type}`", at=(key,), hint=hint, on_key=True
                )

    def _referring(self) -> Iterator[Problem]:
        target = self.references
        if target is None:
            return
        if target.columns and len(target.columns) != len(self.columns):
            message = f"{len(self.columns)} columns cannot refer to {len(target.columns)}"
            yield Problem(message, at=("references", "columns"), hint="Name as many as there are in `columns`.")
        at = ("references", "on_delete_set_columns")
        if target.on_delete_set_columns and target.on_delete not in {"set null", "set default"}:
            yield Problem(
                "`on_delete_set_columns` needs `on_delete: set null` or `set default`", at=at, hint="Delete the key."
            )
        for index, name in enumerate(target.on_delete_set_columns):
            if name not in self.columns:
                message = f"`{name}` is no column of the constraint{did_you_mean(name, list(self.columns))}"
                yield Problem(message, at=(*at, index), hint=f"Its columns are {listed(list(self.columns))}.")


class CreateConstraint(TableConstraint, OnTable):
    """A constraint that the new version brings, over the new version's columns."""

    kind: Literal["create_constraint"] = "create_constraint"
    up: ByColumn = Field(default_factory=dict)
    down: ByColumn = Field(default_factory=dict)

    @property
    def copied(self) -> tuple[str, ...]:
        """The columns that get a second form."""
        return tuple(dict.fromkeys([*self.up, *self.down]))

    def _problems(self) -> Iterator[Problem]:
        yield from super()._problems()
        if self.include and "include" in _KEYS[self.type]:
            instead = (
                "Create a unique index instead, by `create_index`: it has `include`, and does the same for clients."
            )
            yield later("`include` on a table that is there", at=("include",), on_key=True, instead=instead)
        for key, given in (("up", self.up), ("down", self.down)):
            if given and self.type == "exclude":
                yield Problem(
                    f"`{key}` of an exclusion constraint is not in this version",
                    at=(key,),
                    error=NotSupported,
                    hint="Delete the key: it binds everybody from cutover on.",
                    on_key=True,
                )
            for name in given:
                if self.columns and name not in self.columns:
                    message = f"`{name}` is no column of the constraint{did_you_mean(name, list(self.columns))}"
                    hint = "Delete the key, or add the column to `columns`."
                    yield Problem(message, at=(key, name), hint=hint, on_key=True)


class DropConstraint(OnTable):
    """A constraint that the new version does without; contract drops it.

    With `up` and `down` for its columns the new version's have it no more: `down` gives old clients a value that satisfies it.
    """

    kind: Literal["drop_constraint"] = "drop_constraint"
    name: Identifier
    up: ByColumn = Field(default_factory=dict)
    down: ByColumn = Field(default_factory=dict)

    @property
    def copied(self) -> tuple[str, ...]:
        """The columns that get a second form."""
        return tuple(dict.fromkeys([*self.up, *self.down]))


class RenameConstraint(OnTable):
    """A constraint that gets another name at contract; a unique one's index gets it too."""

    kind: Literal["rename_constraint"] = "rename_constraint"
    name: Identifier
    to: NewName

    @model_validator(mode="before")
    @classmethod
    def _said_otherwise(cls, value: Any) -> Any:
        return either(value, "name", "from")

    @model_validator(mode="after")
    def _differs(self) -> "RenameConstraint":
        if self.name == self.to:
            refuse(Problem(f"`{self.name}` has this name already", at=("to",), hint="Choose another name."))
        return self


ConstraintOperation = CreateConstraint | DropConstraint | RenameConstraint
"""An operation on constraints of a table that both versions have."""
