"""A merge: groups of rows become one row each of another table, `merge_rows` (ADR 32)."""

from pgduet.activities.shapes.shape import Shape
from pgduet.operations.design import Design
from pgduet.operations.merge_rows_design import MergeDesign


class Merge(Shape):
    """One of them, in each phase."""

    def __init__(self, plan: Design, design: MergeDesign) -> None:
        """Take the whole migration's design, and this part of it."""
        super().__init__(plan, design)
        self.design = design
