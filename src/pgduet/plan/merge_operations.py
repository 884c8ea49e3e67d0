"""`merge_rows`: several rows of a table become one row of another, by the columns that they have in common.

Each column of the merged rows is one measure over its group: a count, a sum, a minimum or a maximum, as a declared aggregate is.
What several rows came to does not say what they were. So merged rows are read-only until contract, unless `down` says what one more
row a new client's write is: of what it adds to sums and counts, and of minima and maxima as they are to be.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pgduet.plan.column_operations import OnTable
from pgduet.plan.names import Identifier, NewName, TableName, TableText, Text, parse_table
from pgduet.plan.policy import Part
from pgduet.plan.problems import Problem, refuse


class MergedColumn(Part):
    """A column of the merged rows; PostgreSQL gives it its type."""

    name: NewName
    measure: Literal["count", "sum", "min", "max"]
    value: Text | None = None
    """An expression over one row of the table; `count` without it counts rows."""

    @model_validator(mode="after")
    def _has_a_value(self) -> "MergedColumn":
        if self.value is None and self.measure != "count":
            hint = "Give an expression over one row: `value: amount`."
            refuse(Problem(f"`value` is missing: {self.measure} of what?", at=("value",), hint=hint))
        return self


class MergeRows(OnTable):
    """Rows with the same key become one."""

    kind: Literal["merge_rows"] = "merge_rows"
    into: TableText
    key: dict[Identifier, NewName]
    """The columns that the rows of a group have in common, and what the merged table calls each: its primary key."""
    columns: Annotated[tuple[MergedColumn, ...], Field(min_length=1)]

    down: dict[Identifier, Text] = Field(default_factory=dict)
    """Columns of the row that a new client's write adds to its group, as expressions over what it adds to the merged row."""

    @property
    def target(self) -> TableName:
        """The merged table's schema and name."""
        return parse_table(self.into)

    @model_validator(mode="after")
    def _fits_together(self) -> "MergeRows":
        problems = list(self._problems())
        if problems:
            refuse(*problems)
        return self

    def _problems(self) -> Iterator[Problem]:
        if not self.key:
            hint = "Name what the rows of a group have in common: `key: {invoice_id: id}`."
            yield Problem("`key` is empty", at=("key",), hint=hint)
        if self.target.schema != self.relation.schema:
            yield Problem(
                f"{self.target} would be in another schema than {self.relation}",
                at=("into",),
                hint="Merge within the schema.",
            )
        seen: list[str] = []
        for source, name in self.key.items():
            if name in seen:
                yield Problem(f"column `{name}` stands twice in {self.target}", at=("key", source))
            seen.append(name)
        for index, column in enumerate(self.columns):
            if column.name in seen:
                yield Problem(f"column `{column.name}` stands twice in {self.target}", at=("columns", index, "name"))
            seen.append(column.name)
        for name in self.down:
            if name in self.key:
                message = f"`{name}` is of the key, which the row has from the merged one"
                yield Problem(message, at=("down", name), on_key=True, hint="Delete the key.")
