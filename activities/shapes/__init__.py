"""Whole-table shapes: what each does in each phase, beside the tables that change in place. `shape` says what a method may do."""

from pgduet.activities.shapes.attach import Attach
from pgduet.activities.shapes.merge import Merge
from pgduet.activities.shapes.shadow import Shadow
from pgduet.activities.shapes.shape import Range, Shape
from pgduet.operations.design import Design

__all__ = ["Range", "Shape", "shapes_of"]


def shapes_of(design: Design) -> tuple[Shape, ...]:
    """Make the shapes of a migration, in the plan's order."""
    made: list[Shape] = [Shadow(design, each) for each in design.shadows]
    made += [Attach(design, each) for each in design.attached]
    made += [Merge(design, each) for each in design.merged]
    return tuple(sorted(made, key=lambda each: each.position))
