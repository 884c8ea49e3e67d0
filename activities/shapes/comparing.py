"""What shapes add to a migration's parity: one message, whose rows, mismatches and examples are everybody's."""

from pgduet.activities.engine import Work
from pgduet.activities.shapes import shapes_of
from pgduet.activities.shapes.shape import Progress
from pgduet.measured import Parity
from pgduet.postgres.brakes import Brakes

EXAMPLES = 20


async def with_shapes(work: Work, parity: Parity, progress: Progress, brakes: Brakes, *, repair: bool) -> Parity:
    """Compare what shapes have beside the tables that change in place; the whole is as old as its oldest part."""
    found = [await shape.compare(work, progress, brakes, repair=repair) for shape in shapes_of(work.migration.design)]
    parts = [parity, *(each for each in found if each is not None)]
    if len(parts) == 1:
        return parity
    return Parity(
        checked_at=min(each.checked_at for each in parts),
        rows=sum(each.rows for each in parts),
        mismatches=sum(each.mismatches for each in parts),
        violations=sum(each.violations for each in parts),
        repaired=sum(each.repaired for each in parts),
        examples=[example for each in parts for example in each.examples][:EXAMPLES],
        aggregates=[one for each in parts for one in each.aggregates],
    )
