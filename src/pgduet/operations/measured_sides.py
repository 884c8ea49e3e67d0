"""Where a declared aggregate finds each version's rows, of tables that get another shape: by the new version's name for them.

A shadow has the table's own name, an extracted or a merged table the one that the plan gives it. Rows that the new version has none
for are left out of the old one's figures.
"""

from dataclasses import dataclass, field

from pgduet.operations.design import Design
from pgduet.operations.expressions import Expression
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.plan.names import TableName


@dataclass(frozen=True, slots=True)
class Sides:
    """The rows of both versions."""

    position: int
    """The operation's, in the plan."""
    old: TableName
    new: tuple[str, str]
    columns: dict[str, str] = field(default_factory=dict)
    """The new version's, with their types."""
    only: Expression | None = None
    """Which of the old version's rows have one in the new version."""


def measured_sides(design: Design) -> dict[str, Sides]:
    """Give both sides of each shape, by the name of its table in the new version."""
    shapes: list[ShadowDesign | MergeDesign] = [*design.shadows, *design.merged]
    return {str(TableName(each.schema_name, each.shown_as)): _sides(each) for each in shapes}


def _sides(design: ShadowDesign | MergeDesign) -> Sides:
    if isinstance(design, ShadowDesign):
        columns, only = {each.name: each.type for each in design.columns}, design.exists
    else:
        columns = {key.target: key.type for key in design.key} | {each.name: each.type for each in design.columns}
        only = None
    return Sides(
        position=design.position,
        old=TableName(design.schema_name, design.table),
        new=(design.schema_name, design.physical),
        columns=columns,
        only=only,
    )
