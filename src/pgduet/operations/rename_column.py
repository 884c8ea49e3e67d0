"""rename_column: the same data under another name; a matter of the new version's view until contract."""

from pgduet.operations.column_design import Alias
from pgduet.operations.facts import ColumnFacts
from pgduet.plan.models import RenameColumn


def alias(index: int, operation: RenameColumn, column: ColumnFacts) -> Alias:
    """Resolve the operation."""
    return Alias(name=operation.column, new_name=operation.to, type=column.type, position=index)
