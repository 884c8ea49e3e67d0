"""A shadow: the rows of a table in another shape beside it, `shadow_table` and `extract_table` (ADR 28)."""

from pgduet.activities.shapes.shape import Shape
from pgduet.operations.design import Design
from pgduet.operations.shadow_design import ShadowDesign


class Shadow(Shape):
    """One of them, in each phase."""

    def __init__(self, plan: Design, design: ShadowDesign) -> None:
        """Take the whole migration's design, and this part of it."""
        super().__init__(plan, design)
        self.design = design
