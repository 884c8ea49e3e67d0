"""add_column: a column that only the new version has.

`up` (or the default, where there is no `up`) gives rows that exist, and inserts of old clients, their value. Until new clients
may write, the value follows its sources; from publication on the column is the new version's own, since an update through either
version of a source says nothing about it. On rollback its values are archived, and restored when the same plan starts again.
"""

from pgduet.operations.answers import Answers, KeyPath
from pgduet.operations.column_design import ColumnMapping, NewColumn
from pgduet.operations.names import physical_column
from pgduet.plan.models import AddColumn


def mapping(plan: str, index: int, operation: AddColumn, answers: Answers) -> ColumnMapping:
    """Resolve the operation: one new column, nothing replaced."""
    path: KeyPath = ("operations", index, "add_column", "column")
    column = operation.column
    default = answers.expressions.get((*path, "default"))
    made = NewColumn(
        name=column.name,
        physical=physical_column(plan, column.name),
        type=answers.types[path],
        nullable=column.nullable,
        default=default.canonical if default else None,
        comment=column.comment,
        up=answers.expressions.get((*path, "up"), default),
    )
    return ColumnMapping(kind="add_column", position=index, columns=(made,))
