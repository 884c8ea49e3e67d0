"""Operations that give a table another shape: by a second table beside it, which is in step until contract.

`shadow_table` keeps the rows and changes what they look like or how they are stored; columns that it does not name stay as they
are. `extract_table` moves columns to a table of their own, named by the key of the row that they come from.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pgduet.errors import DownIncomplete
from pgduet.plan import rewrites
from pgduet.plan.column_operations import OnTable
from pgduet.plan.columns import Check, Constrained, NewColumn, References, Unique
from pgduet.plan.names import Identifier, NewName, TableName, TableText, Text, later, parse_table
from pgduet.plan.policy import Part
from pgduet.plan.problems import Problem, did_you_mean, listed, refuse

MOST_PARTITIONS = 1000


class PartitionBound(Part):
    """A partition and what it holds, in PostgreSQL's words: `FOR VALUES FROM (…) TO (…)`, `FOR VALUES IN (…)`, `DEFAULT`."""

    name: NewName
    bound: Text


def _bounds(value: Any) -> Any:
    # `{orders_2026: "FOR VALUES …"}` is short for a list.
    if isinstance(value, dict):
        return [{"name": name, "bound": bound} for name, bound in value.items()]
    return value


class PartitionBy(Part):
    """How the rows are spread: by ranges or lists with their bounds, or by hash over a number of partitions."""

    method: Literal["range", "list", "hash"]
    columns: Annotated[tuple[Identifier, ...], Field(min_length=1)]
    partitions: Annotated[tuple[PartitionBound, ...], BeforeValidator(_bounds)] = ()
    modulus: Annotated[int, Field(ge=2, le=MOST_PARTITIONS)] | None = None

    @model_validator(mode="after")
    def _has_partitions(self) -> "PartitionBy":
        problems = list(self._problems())
        if problems:
            refuse(*problems)
        return self

    def _problems(self) -> Iterator[Problem]:
        if self.method == "hash" and self.modulus is None:
            yield Problem("hash needs `modulus`: how many partitions there are", at=("modulus",), hint="`modulus: 8`")
        if self.method == "hash" and self.partitions:
            yield Problem(
                "hash partitions have no bounds", at=("partitions",), hint="Delete the key: `modulus` makes them."
            )
        if self.method != "hash" and self.modulus is not None:
            yield Problem("only hash has a `modulus`", at=("modulus",), hint="Delete the key.")
        if self.method != "hash" and not self.partitions:
            hint = "Give each its bound, and one `DEFAULT` for what fits into none."
            yield Problem("there are no partitions", at=("partitions",), hint=hint)
        if self.method == "list" and len(self.columns) > 1:
            yield Problem(
                "PostgreSQL spreads by lists over one column only", at=("columns", 1), hint="Delete the others."
            )
        names = [each.name for each in self.partitions]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield Problem(f"partition `{name}` stands twice", at=("partitions", index, "name"))


class ShadowTable(OnTable):
    """The same rows in another shape."""

    kind: Literal["shadow_table"] = "shadow_table"
    columns: tuple[NewColumn, ...] = ()
    """Columns that are new, or other than before: one that exists by its name, others by what they replace."""
    replaces: tuple[Identifier, ...] = ()
    """Columns that the new shape does without."""
    down: dict[str, Text] = Field(default_factory=dict)
    order: tuple[Identifier, ...] = ()
    """The columns of the new shape in their order; those that are left out follow."""
    primary_key: tuple[Identifier, ...] = ()
    partition_by: PartitionBy | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "ShadowTable":
        problems = list(self._problems())
        if problems:
            refuse(*problems)
        return self

    def _problems(self) -> Iterator[Problem]:
        if not (self.columns or self.replaces or self.order or self.primary_key or self.partition_by):
            keys = ["columns", "replaces", "order", "primary_key", "partition_by"]
            yield Problem("the shape does not change", hint=f"Give at least one of {listed(keys)}.")
        names = [column.name for column in self.columns]
        for index, column in enumerate(self.columns):
            yield from self._problems_of(index, column, names[:index])
        missing = [name for name in dict.fromkeys(self.replaces) if name not in self.down]
        if missing:
            cure = " and ".join(f"`{name}: <SQL expression>`" for name in missing)
            hint = f"Add {cure} over the new shape's columns."
            yield Problem(
                f"`down` has no expression for {listed(missing)}", at=("down",), error=DownIncomplete, hint=hint
            )
        known = [*self.replaces, *names]
        for name in self.down:
            if name not in known:
                message = f"`{name}` is neither replaced nor changed{did_you_mean(name, known)}"
                yield Problem(message, at=("down", name), on_key=True, hint="Delete the key.")
        if self.partition_by and self.primary_key:
            absent = [name for name in self.partition_by.columns if name not in self.primary_key]
            if absent:
                message = f"the primary key lacks {listed(absent)}, by which the rows are spread"
                hint = "PostgreSQL keeps a key unique within each partition only: add them to `primary_key`."
                yield Problem(message, at=("primary_key",), hint=hint)

    def _problems_of(self, index: int, column: NewColumn, before: list[str]) -> Iterator[Problem]:
        if column.name in before:
            message = f"column `{column.name}` stands twice"
            yield Problem(message, at=("columns", index, "name"), hint="Delete one of them.")
        render = rewrites.constraint_of_parted if self.partition_by else rewrites.constraint
        yield from _bound(index, column, partial(render, self.relation, column.name))


def _bound(index: int, column: Constrained, render: Callable[[Check | Unique | References], str]) -> Iterator[Problem]:
    """Refuse the constraints of a column, each with the operation that makes it."""
    for key in ("check", "unique", "references"):
        if (bound := getattr(column, key)) is not None:
            yield later(f"`{key}` in a new shape", at=("columns", index, key), on_key=True, instead=render(bound))


class MovedColumn(Constrained):
    """A column that moves: under the same name and type, unless it says otherwise."""

    name: Identifier
    to: NewName | None = None
    type: Text | None = None
    up: Text | None = None
    down: Text | None = None

    @property
    def new_name(self) -> str:
        """What the extracted table calls it."""
        return self.to or self.name

    @model_validator(mode="after")
    def _maps_both_ways(self) -> "MovedColumn":
        if (self.up is None) != (self.down is None):
            absent = "up" if self.up is None else "down"
            refuse(
                Problem(
                    f"`{absent}` is missing: nothing says how a value goes that way", at=(absent,), error=DownIncomplete
                )
            )
        return self


def _moved(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class ExtractTable(OnTable):
    """Columns that move to a related table, one row for each row of the table that has something in them."""

    kind: Literal["extract_table"] = "extract_table"
    into: TableText
    columns: Annotated[tuple[Annotated[MovedColumn, BeforeValidator(_moved)], ...], Field(min_length=1)]
    key: dict[Identifier, NewName]
    """The table's primary key, and what the extracted table calls each of its columns."""
    when: Text | None = None
    """Which rows have one in the extracted table; by default those in which any of the columns is not empty."""

    @property
    def target(self) -> TableName:
        """The extracted table's schema and name."""
        return parse_table(self.into)

    @model_validator(mode="after")
    def _fits_together(self) -> "ExtractTable":
        problems = list(self._problems())
        if problems:
            refuse(*problems)
        return self

    def _problems(self) -> Iterator[Problem]:
        if not self.key:
            hint = "Name each column of the table's primary key: `key: {id: customer_id}`."
            yield Problem("`key` is empty", at=("key",), hint=hint)
        if self.target == self.relation:
            yield Problem(f"{self.target} cannot be extracted into itself", at=("into",), hint="Choose another name.")
        if self.target.schema != self.relation.schema:
            yield Problem(
                f"{self.target} would be in another schema than {self.relation}",
                at=("into",),
                hint="Extract within the schema.",
            )
        seen = list(self.key.values())
        for index, column in enumerate(self.columns):
            if column.new_name in seen:
                yield Problem(
                    f"column `{column.new_name}` stands twice in {self.target}", at=("columns", index, "name")
                )
            seen.append(column.new_name)
            yield from _bound(index, column, partial(rewrites.constraint, self.target, column.new_name))
            if column.name in self.key:
                message = f"`{column.name}` is of the key, which both tables have"
                yield Problem(message, at=("columns", index, "name"), hint="Delete it from `columns`.")
