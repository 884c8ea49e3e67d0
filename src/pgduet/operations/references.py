"""Foreign keys that a plan asks for, as values of a design."""

from collections.abc import Mapping, Sequence

from psycopg import sql

from pgduet.operations.constraints import ForeignKey
from pgduet.operations.names import usual_name, working_name
from pgduet.operations.statement import identifiers, trusted
from pgduet.plan.columns import NewColumn, References, TableColumn
from pgduet.plan.constraint_operations import TableConstraint, TableReferences
from pgduet.plan.models import AlterColumn, CreateConstraint, CreateTable, Plan, ReplaceColumns
from pgduet.plan.problems import KeyPath


def foreign_key(
    plan: str, table: str, column: str, physical: str, references: References, targets: tuple[str, ...]
) -> ForeignKey:
    """Resolve `references` of a column."""
    name = references.name or usual_name(table, column, "fkey")
    target = references.relation
    rest = sql.SQL("REFERENCES {} ({}) ON DELETE {} ON UPDATE {}").format(
        sql.Identifier(target.schema, target.name),
        identifiers(targets),
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


def table_foreign_key(
    plan: str, operation: TableConstraint, physical: Mapping[str, str], targets: tuple[str, ...]
) -> ForeignKey:
    """Resolve `references` of a constraint."""
    references = operation.references
    assert references is not None  # noqa: S101  (checked by the model)
    target = references.relation
    return ForeignKey(
        name=operation.name,
        working=working_name(plan, operation.name),
        columns=tuple(physical.get(name, name) for name in operation.columns),
        target_schema=target.schema,
        target=target.name,
        target_columns=targets,
        rest=referring(operation, sql.Identifier(target.schema, target.name), targets, physical),
        shown=operation.name,
        match_full=references.match == "full",
        deferrable=operation.deferrable or operation.initially_deferred,
    )


def referring(
    operation: TableConstraint, target: sql.Composable, targets: tuple[str, ...], physical: Mapping[str, str]
) -> str:
    """Render what follows the column list of a foreign key."""
    references = operation.references
    assert references is not None  # noqa: S101  (checked by the model)
    only = sql.SQL(", ").join(sql.Identifier(physical.get(name, name)) for name in references.on_delete_set_columns)
    rest = sql.SQL("REFERENCES {} ({}) MATCH {} ON DELETE {}{} ON UPDATE {} {}").format(
        target,
        identifiers(targets),
        sql.SQL("FULL" if references.match == "full" else "SIMPLE"),
        _action(references.on_delete),
        sql.SQL(" ({})").format(only) if references.on_delete_set_columns else sql.SQL(""),
        _action(references.on_update),
        trusted(operation.timing),
    )
    return rest.as_string(None).rstrip()


def asked(plan: Plan) -> list[tuple[KeyPath, References | TableReferences]]:
    """Walk the foreign keys that a plan asks for, each with its place."""
    found: list[tuple[KeyPath, References | TableReferences]] = []
    for index, operation in enumerate(plan.operations):
        top: KeyPath = ("operations", index, operation.kind)
        if isinstance(operation, CreateConstraint):
            found += [((*top, "references"), operation.references)] if operation.references else []
            continue
        for number, each in enumerate(getattr(operation, "constraints", ())):
            if each.references:
                found.append(((*top, "constraints", number, "references"), each.references))
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
