"""A merge: groups of rows become one row each of another table, `merge_rows` (ADR 32)."""

from pgduet.activities.engine import Work
from pgduet.activities.shapes import parity
from pgduet.activities.shapes.shape import Progress, Shape
from pgduet.measured import Parity
from pgduet.operations.design import Design
from pgduet.operations.merge_rows_design import MergeDesign


class Merge(Shape):
    """One of them, in each phase."""

    def __init__(self, plan: Design, design: MergeDesign) -> None:
        """Take the whole migration's design, and this part of it."""
        super().__init__(plan, design)
        self.design = design

    async def compare(self, work: Work, progress: Progress, *, repair: bool) -> Parity | None:
        """Compare all rows of both versions, those of the table and those that they were merged into."""
        return await parity.of_merge(work, self.design, progress, repair=repair)
