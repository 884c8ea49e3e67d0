"""Operations on whole tables, and plain SQL.

A table that is created, dropped or renamed is so for clients of the new version; base tables follow at contract, except that a
created table is there from expand on.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pgduet.errors import NotSupported
from pgduet.plan.column_operations import OnTable, either
from pgduet.plan.columns import TableColumn
from pgduet.plan.constraint_operations import TableConstraint
from pgduet.plan.names import Identifier, NewName, TableName, TableText, Text, parse_table
from pgduet.plan.policy import Part
from pgduet.plan.problems import Problem, did_you_mean, listed, refuse

Right = Literal["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]


class CreateTable(OnTable):
    """A table that the new version brings."""

    kind: Literal["create_table"] = "create_table"
    columns: Annotated[tuple[TableColumn, ...], Field(min_length=1)]
    primary_key: tuple[Identifier, ...] = ()
    comment: str | None = None
    grants: dict[Identifier, tuple[Right, ...]] = Field(default_factory=dict)
    constraints: tuple[TableConstraint, ...] = ()

    @model_serializer(mode="wrap")
    def _under_its_name(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = dump(self)
        # They came later than the rest: a plan without them keeps its checksum.
        if not fields["constraints"]:
            fields.pop("constraints")
        return {fields.pop("kind"): fields}

    @model_validator(mode="before")
    @classmethod
    def _said_otherwise(cls, value: Any) -> Any:
        return either(value, "table", "name")

    @property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns: as listed, else those that say so themselves, else a constraint's."""
        own = self.primary_key or tuple(column.name for column in self.columns if column.primary_key)
        return own or next((each.columns for each in self.constraints if each.type == "primary_key"), ())

    @property
    def unique(self) -> tuple[tuple[str, ...], ...]:
        """The sets of columns to which a foreign key can point."""
        bound = [each for each in self.constraints if each.type in {"unique", "primary_key"}]
        own = () if any(each.type == "primary_key" for each in bound) or not self.key else (self.key,)
        single = [(column.name,) for column in self.columns if column.unique]
        return (*single, *(each.columns for each in bound if not each.timing), *own)

    @model_validator(mode="after")
    def _fits_together(self) -> "CreateTable":
        problems = list(self._problems())
        if problems:
            refuse(*problems)
        return self

    def _problems(self) -> Iterator[Problem]:
        names = [column.name for column in self.columns]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield Problem(
                    f"column `{name}` stands twice", at=("columns", index, "name"), hint="Delete one of them."
                )
        for index, name in enumerate(self.primary_key):
            if name not in names:
                message = f"the table has no column `{name}`{did_you_mean(name, names)}"
                yield Problem(message, at=("primary_key", index), hint=f"Its columns are {listed(names)}.")
        yield from self._constraint_problems(names)

    def _constraint_problems(self, names: list[str]) -> Iterator[Problem]:
        keyed = bool(self.primary_key or any(column.primary_key for column in self.columns))
        seen: list[str] = []
        for number, each in enumerate(self.constraints):
            if each.name in seen:
                yield Problem(f"constraint `{each.name}` stands twice", at=("constraints", number, "name"))
            if each.type == "primary_key" and keyed:
                hint = "Delete one of the two."
                yield Problem("the table has a primary key already", at=("constraints", number, "type"), hint=hint)
            keyed = keyed or each.type == "primary_key"
            seen.append(each.name)
            for key, over in (("columns", each.columns), ("include", each.include)):
                for index, name in enumerate(over):
                    if name not in names:
                        message = f"the table has no column `{name}`{did_you_mean(name, names)}"
                        at = ("constraints", number, key, index)
                        yield Problem(message, at=at, hint=f"Its columns are {listed(names)}.")


class DropTable(OnTable):
    """A table that the new version does without; contract moves it to `pgduet_archive`."""

    kind: Literal["drop_table"] = "drop_table"


class RenameTable(OnTable):
    """A table that has another name in the new version; contract renames the table itself."""

    kind: Literal["rename_table"] = "rename_table"
    to: NewName

    @model_validator(mode="before")
    @classmethod
    def _said_otherwise(cls, value: Any) -> Any:
        return either(either(value, "table", "from"), "to", "name")

    @model_validator(mode="after")
    def _differs(self) -> "RenameTable":
        if self.to == self.relation.name:
            refuse(Problem(f"`{self.to}` is its name already", at=("to",), hint="Choose another name."))
        return self


_TRANSACTION = re.compile(
    r"(?:^|;)\s*(begin|commit|rollback|abort|savepoint|release|start\s+transaction|prepare\s+transaction)\b",
    re.IGNORECASE,
)


class Sql(Part):
    """SQL of the plan's author: `up` at expand and `down` at rollback, or `up` at contract, from where nothing goes back.

    `tables` names what it touches, so that other plans keep off. Each of the two runs in one transaction under the lock budget;
    at contract it is that in which a table of the plan which it names gets its final shape.
    """

    kind: Literal["sql"] = "sql"
    up: Text
    down: Text | None = None
    at: Literal["expand", "contract"] = "expand"
    tables: tuple[TableText, ...] = ()

    @property
    def touched(self) -> tuple[TableName, ...]:
        """The tables that the statements touch, as their author says."""
        return tuple(parse_table(table) for table in self.tables)

    @model_serializer(mode="wrap")
    def _under_its_name(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = dump(self)
        return {fields.pop("kind"): fields}

    @model_validator(mode="after")
    def _goes_back(self) -> "Sql":
        problems = list(self._problems())
        if problems:
            refuse(*problems)
        return self

    def _problems(self) -> Iterator[Problem]:
        if self.at == "expand" and self.down is None:
            yield Problem(
                "`down` is missing: nothing says how a rollback undoes `up`",
                at=("down",),
                hint="Give the SQL that undoes `up` (`SELECT 1` where there is nothing to undo), or `at: contract`.",
            )
        if self.at == "contract" and self.down is not None:
            hint = "Delete the key, or `at: contract`."
            yield Problem("`down` would never run: there is no way back from contract", at=("down",), hint=hint)
        for key, text in (("up", self.up), ("down", self.down or "")):
            bare = without_texts(text)
            if found := _TRANSACTION.search(bare):
                word = found[1].upper()
                hint = "Leave it out: pgduet runs the whole text in one transaction."
                yield Problem(f"`{word}` cannot stand here", at=(key,), hint=hint, error=NotSupported)
            if re.search(r"\bconcurrently\b", bare, re.IGNORECASE):
                message = "CONCURRENTLY cannot run in a transaction, and `sql` runs in one"
                yield Problem(message, at=(key,), error=NotSupported, hint="Run such a statement by itself.")


def without_comments(text: str) -> str:
    """Blank out comments, but not what stands in quotes."""
    kept = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    return re.sub(rf"({kept})|--[^\n]*|/\*.*?\*/", lambda found: found[1] or " ", text, flags=re.DOTALL)


def without_texts(text: str) -> str:
    """Blank out comments, quoted texts and quoted names, so that key words can be looked for."""
    pattern = r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(\$[A-Za-z_0-9]*\$).*?\1"
    return re.sub(pattern, " ", text, flags=re.DOTALL)
