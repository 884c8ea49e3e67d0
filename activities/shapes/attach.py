"""A table that is attached to a parent above it, and becomes its first partition at contract (ADR 31)."""

from pgduet.activities.shapes.shape import Shape
from pgduet.operations.attach_design import AttachDesign
from pgduet.operations.design import Design


class Attach(Shape):
    """One of them, in each phase."""

    def __init__(self, plan: Design, design: AttachDesign) -> None:
        """Take the whole migration's design, and this part of it."""
        super().__init__(plan, design)
        self.design = design
