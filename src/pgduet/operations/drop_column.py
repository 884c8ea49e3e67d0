"""drop_column: a column that the new version does without.

Old clients read and write it until contract. A row that a new client inserts gets `down` in it, or the column's own default.
Contract archives its values and drops it.
"""

from pgduet.operations.answers import Answers
from pgduet.operations.column_design import ColumnMapping, OldColumn
from pgduet.operations.facts import TableFacts
from pgduet.plan.models import DropColumn


def mapping(index: int, operation: DropColumn, table: TableFacts, answers: Answers) -> ColumnMapping:
    """Resolve the operation: nothing new, one column less."""
    column = table.column(operation.column)
    assert column is not None  # noqa: S101  (checked before)
    down = answers.expressions.get(("operations", index, "drop_column", "down"))
    old = OldColumn(name=column.name, type=column.type, not_null=column.not_null, down=down)
    return ColumnMapping(kind="drop_column", position=index, columns=(), replaces=(old,))
