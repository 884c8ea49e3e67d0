"""Designs of whole-table shapes, made with what PostgreSQL says: a shadow or a parent above, an extracted table, merged rows.

Each kind has one function here, which gives its design and what people should know of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgduet.hazards import Hazard
from pgduet.operations import shadow_resolve
from pgduet.operations.answers import Answers
from pgduet.operations.attach_design import AttachDesign
from pgduet.operations.facts import TableFacts
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shaped import shaping
from pgduet.plan.models import ExtractTable, Plan, ShadowTable
from pgduet.postgres.session import Connection


@dataclass
class Shaped:
    """The designs of a plan's shapes, and what people should know."""

    shadows: list[ShadowDesign] = field(default_factory=list)
    attached: list[AttachDesign] = field(default_factory=list)
    merged: list[MergeDesign] = field(default_factory=list)
    hazards: list[Hazard] = field(default_factory=list)

    @property
    def designs(self) -> dict[str, object]:
        """The design's own fields."""
        return {"shadows": tuple(self.shadows), "attached": tuple(self.attached), "merged": tuple(self.merged)}


async def shaped(conn: Connection, plan: Plan, facts: Mapping[str, TableFacts], answers: Answers) -> Shaped:
    """Make the designs of all operations that give a table another shape.

    Raises:
        PgduetError: the first thing that PostgreSQL cannot do, with its path in the plan.
    """
    made = Shaped()
    for index, operation in shaping(plan):
        table = facts[str(operation.relation)]
        if isinstance(operation, ShadowTable | ExtractTable):
            await _shadow(conn, plan, index, operation, table, answers, made)
    return made


async def _shadow(
    conn: Connection,
    plan: Plan,
    index: int,
    operation: ShadowTable | ExtractTable,
    table: TableFacts,
    answers: Answers,
    made: Shaped,
) -> None:
    """Make a shadow, or attach the table to a parent where that gives the same shape."""
    del conn
    design = shadow_resolve.resolve(plan.name, index, operation, table, answers)
    made.shadows.append(design)
