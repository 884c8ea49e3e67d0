"""Declared aggregates: what must come out the same over both versions' rows, beside each row by itself.

Both sides are written out, so that they can be written independently of `up` and `down`. Here only their form is checked; whether
PostgreSQL takes the expressions, and whether the sides can be compared, is asked at preflight.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from pgduet.plan.names import TableName, TableText, Text, parse_table
from pgduet.plan.probes import Name
from pgduet.plan.problems import Problem, refuse

MOST = 20
MOST_GROUPS = 8


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Grouping(_Part):
    """What rows are grouped by: an expression over the old version's row, and one over the new version's."""

    old: Text
    new: Text


def _both(value: object) -> object:
    """Take one expression for both sides."""
    return {"old": value, "new": value} if isinstance(value, str) else value


GroupBy = Annotated[
    Grouping,
    BeforeValidator(_both),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"old": {"type": "string"}, "new": {"type": "string"}},
                    "required": ["old", "new"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class Aggregate(_Part):
    """One figure of all rows of a table, for each group."""

    name: Name
    table: TableText
    measure: Literal["count", "sum", "min", "max"]
    old: Text | None = None
    new: Text | None = None
    group_by: Annotated[tuple[GroupBy, ...], Field(max_length=MOST_GROUPS)] = ()

    @property
    def relation(self) -> TableName:
        """The table's schema and name as the catalogue has them."""
        return parse_table(self.table)

    @model_validator(mode="after")
    def _has_both_sides(self) -> "Aggregate":
        sides = {"old": self.old, "new": self.new}
        given = [side for side, value in sides.items() if value is not None]
        if len(given) == 1:
            missing = "new" if given == ["old"] else "old"
            refuse(
                Problem(
                    f"`{given[0]}` is given, and `{missing}` is not: nothing to compare it with",
                    at=(given[0],),
                    hint=f"Add `{missing}`: what is measured of the {missing} version's row.",
                )
            )
        if not given and self.measure != "count":
            refuse(
                Problem(
                    f"`{self.measure}` of what? `old` and `new` are missing",
                    at=("measure",),
                    on_key=True,
                    hint="Add `old` and `new`: an expression over the row of each version. Only `count` can do without.",
                )
            )
        if not given and not self.group_by:
            refuse(
                Problem(
                    "both versions' rows are in one table: to count all of them compares nothing",
                    at=("measure",),
                    hint="Add `group_by`, or `old` and `new`: then rows are counted in which they are not NULL.",
                )
            )
        return self


def _named_once(aggregates: tuple[Aggregate, ...]) -> tuple[Aggregate, ...]:
    names = [aggregate.name for aggregate in aggregates]
    twice = [
        Problem(f"two aggregates are called `{name}`", at=(number, "name"), hint="Give it another name.")
        for number, name in enumerate(names)
        if name in names[:number]
    ]
    if twice:
        refuse(*twice)
    return aggregates


Aggregates = Annotated[tuple[Aggregate, ...], Field(max_length=MOST), AfterValidator(_named_once)]
