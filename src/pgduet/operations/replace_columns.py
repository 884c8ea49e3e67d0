"""replace_columns: N old columns become M new ones, mapped by `up` and `down` in both directions while both are in use."""

from pgduet.operations.answers import Answers, KeyPath
from pgduet.operations.column_design import ColumnMapping, NewColumn, OldColumn
from pgduet.operations.facts import TableFacts
from pgduet.operations.names import physical_column
from pgduet.plan.models import ReplaceColumns


def mapping(plan: str, index: int, operation: ReplaceColumns, table: TableFacts, answers: Answers) -> ColumnMapping:
    """Resolve the operation: its new columns with `up`, its old ones with `down`."""
    path: KeyPath = ("operations", index, "replace_columns")
    columns = tuple(
        NewColumn(
            name=column.name,
            physical=physical_column(plan, column.name),
            type=answers.types[*path, "columns", number],
            nullable=column.nullable,
            comment=column.comment,
            up=answers.expressions[*path, "columns", number, "up"],
        )
        for number, column in enumerate(operation.columns)
    )
    replaced = tuple(
        OldColumn(name=name, type=column.type, not_null=column.not_null, down=answers.expressions[*path, "down", name])
        for name in operation.replaces
        if (column := table.column(name))
    )
    return ColumnMapping(kind="replace_columns", position=index, columns=columns, replaces=replaced)
