"""create_table: a table that the new version brings.

It is there, empty, from expand on; foreign keys bind from cutover on, since they would bind old clients' deletes. On rollback the
whole table moves to `pgduet_archive`, and comes back from there when the same plan starts again.
"""

from pgduet.operations.answers import Answers, KeyPath
from pgduet.operations.constraints import Check
from pgduet.operations.names import unique_name, usual_name
from pgduet.operations.references import foreign_key, table_foreign_key
from pgduet.operations.table_constraints import over_columns
from pgduet.operations.whole_tables import CreatedTable, MadeColumn
from pgduet.plan.models import CreateTable


def named_indexes(operation: CreateTable) -> list[tuple[KeyPath, str]]:
    """Give the names of indexes that the table brings with its constraints, each with its place in the operation."""
    of_columns: list[tuple[KeyPath, str]] = [
        (("columns", number, "unique"), unique_name(operation.relation.name, column.name, column.unique.name))
        for number, column in enumerate(operation.columns)
        if column.unique
    ]
    named = [(("constraints", n, "name"), each.name) for n, each in enumerate(operation.constraints) if each.on_index]
    return [*of_columns, *named]


def created(plan: str, index: int, operation: CreateTable, answers: Answers) -> CreatedTable:
    """Resolve the operation."""
    top: KeyPath = ("operations", index, "create_table", "columns")
    table = operation.relation
    columns, checks, unique, foreign = [], [], [], []
    for number, column in enumerate(operation.columns):
        path = (*top, number)
        default = answers.expressions.get((*path, "default"))
        generated = answers.expressions.get((*path, "generated"))
        columns.append(
            MadeColumn(
                name=column.name,
                type=answers.types[path],
                nullable=column.nullable and column.name not in operation.key,
                default=default.canonical if default else None,
                comment=column.comment,
                identity=column.identity,
                generated=generated.alone().as_string(None) if generated else None,
            )
        )
        if column.check:
            name = column.check.name or usual_name(table.name, column.name, "check")
            expression = answers.expressions[*path, "check"]
            checks.append(Check(name=name, working=name, shown=column.name, expression=expression))
        if column.unique:
            unique.append((column.name, unique_name(table.name, column.name, column.unique.name)))
        if column.references:
            targets = answers.targets[*path, "references"]
            foreign.append(foreign_key(plan, table.name, column.name, column.name, column.references, targets))
    whole = []
    for number, each in enumerate(operation.constraints):
        path = (*top[:-1], "constraints", number)
        if each.check:
            expression = answers.expressions[*path, "check"]
            made = Check(name=each.name, working=each.name, shown=each.name, expression=expression)
            checks.append(made.model_copy(update={"no_inherit": each.no_inherit}))
        elif each.references:
            foreign.append(table_foreign_key(plan, each, {}, answers.targets[*path, "references"]))
        elif not each.exclude:  # that one comes in PostgreSQL's own words
            whole.append((each.name, over_columns(each).as_string(None)))
    return CreatedTable(
        schema_name=table.schema,
        table=table.name,
        position=index,
        columns=tuple(columns),
        key=() if any(each.type == "primary_key" for each in operation.constraints) else operation.key,
        checks=tuple(checks),
        unique=tuple(unique),
        whole=tuple(whole),
        foreign_keys=tuple(foreign),
        comment=operation.comment,
        grants=tuple(operation.grants.items()),
    )
