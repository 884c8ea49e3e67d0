"""Foreign keys that a plan asks for, as values of a design."""

from collections.abc import Sequence

from psycopg import sql

from pgduet.operations.constraints import ForeignKey
from pgduet.operations.names import proper_name, working_name
from pgduet.plan.columns import NewColumn, References, TableColumn
from pgduet.plan.models import AlterColumn, CreateTable, Plan, ReplaceColumns
from pgduet.plan.problems import KeyPath


def foreign_key(
    plan: str, table: str, column: str, physical: str, references: References, targets: tuple[str, ...]
) -> ForeignKey:
    """Resolve `references` of a column."""
    name = references.name or proper_name(table, column, "fkey")
    target = references.relation
    rest = sql.SQL("REFERENCES {} ({}) ON DELETE {} ON UPDATE {}").format(
        sql.Identifier(target.schema, target.name),
        sql.SQL(", ").join(sql.Identifier(name) for name in targets),
        _action(references.on_delete),
        _action(references.on_update),
    )
    return ForeignKey(
        name=name,
        working=working_name(plan, name),
        columns=(physical,),
        target_schema=target.schema,
        target=target.name,
        target_columns=targets,
        rest=rest.as_string(None),
        shown=column,
    )


def asked(plan: Plan) -> list[tuple[KeyPath, References]]:
    """Walk the foreign keys that a plan asks for, each with its place."""
    found: list[tuple[KeyPath, References]] = []
    for index, operation in enumerate(plan.operations):
        top: KeyPath = ("operations", index, operation.kind)
        if isinstance(operation, AlterColumn):
            found += [((*top, "references"), operation.references)] if operation.references else []
        elif single := getattr(operation, "column", None):
            found += (
                [((*top, "column", "references"), single.references)] if getattr(single, "references", None) else []
            )
        listed: Sequence[NewColumn | TableColumn] = (
            operation.columns if isinstance(operation, CreateTable | ReplaceColumns) else ()
        )
        for number, column in enumerate(listed):
            if column.references:
                found.append(((*top, "columns", number, "references"), column.references))
    return found


_ACTIONS = {
    "no action": sql.SQL("NO ACTION"),
    "restrict": sql.SQL("RESTRICT"),
    "cascade": sql.SQL("CASCADE"),
    "set null": sql.SQL("SET NULL"),
    "set default": sql.SQL("SET DEFAULT"),
}


def _action(action: str) -> sql.SQL:
    return _ACTIONS[action]
