"""What somebody has changed of an old column since preflight, in place: contract gives it to the successor, or refuses.

Of a column with a second form of its own (`alter_column`, a constraint with `up` and `down`) default, comment and statistics target
are taken over as they are in the end, where the plan does not say them. A NOT NULL that came or went is not: whether a value
becomes NULL, or NULL a value, is `up`'s matter, and rows would have to be read.
Limits: columns of a primary key keep the default by which they are numbered; storage is the new type's.
"""

from collections.abc import Iterator, Sequence

from psycopg import sql

from pgduet.errors import ColumnsChanged
from pgduet.operations.alter_column import carried_default
from pgduet.operations.column_design import NewColumn, OldColumn
from pgduet.operations.design import TableDesign
from pgduet.operations.facts import ColumnFacts, TableFacts
from pgduet.operations.statement import Lock, Statement, on_table, trusted
from pgduet.sql import block

_BY_DEFAULT = -1
"""The statistics target of a column that has none of its own."""


def in_the_way(table: TableDesign, facts: TableFacts) -> Iterator[tuple[str, str]]:
    """Say what contract would lose, each with what undoes it."""
    for before, new, old in _pairs(table, facts):
        if "not_null" in new.follows and old.not_null is not before.not_null:
            name = sql.Identifier(old.name).as_string(None)
            is_now, back = ("NOT NULL", "DROP NOT NULL") if old.not_null else ("nullable", "SET NOT NULL")
            yield f'column "{old.name}" is {is_now} since', f"ALTER TABLE {table.label} ALTER COLUMN {name} {back}"


def refuse(plan: str, table: TableDesign, facts: TableFacts) -> None:
    """Refuse to drop old columns, while there is a way back.

    Raises:
        ColumnsChanged: naming what has changed, and what helps.
    """
    if found := list(in_the_way(table, facts)):
        raise ColumnsChanged(
            f"since preflight of {table.schema_name}.{table.table}: {'; '.join(said for said, _ in found)}",
            hint=f"{'; '.join(cure for _, cure in found)}; then: pgduet advance {plan}, and change the new column after contract."
            f" Or roll back, which keeps it: pgduet rollback {plan}; then start again.",
        )


def taken_over(table: TableDesign, facts: TableFacts, views: Sequence[sql.Identifier]) -> list[Statement]:
    """Give successors what their columns have by now: once they have their names. `views` show them, with the default of before."""
    made: list[Statement] = []
    for before, new, old in _pairs(table, facts):
        column = sql.Identifier(new.name)
        numbers = table.rekey is not None and before.name in table.key
        default = carried_default(old, new.up, new.type) if new.up else new.default
        if "default" in new.follows and not numbers and default != new.default:
            made.append(_default(table, column, default))
            for view in views:
                query = block("shadow_final", "drop_view_default").format(view=view, column=column)
                made.append(Statement(query, f"{new.name} begins as the table says"))
        now = facts.column(new.physical)
        if "comment" in new.follows and now is not None and now.comment != old.comment:
            made.append(_on(table, "comment", "its comment", column=column, text=sql.Literal(old.comment)))
        if new.follows and now is not None and now.statistics != old.statistics:
            number = sql.Literal(_BY_DEFAULT if old.statistics is None else old.statistics)
            made.append(_on(table, "statistics", "its statistics target", column=column, number=number))
    return made


def _default(table: TableDesign, column: sql.Identifier, default: str | None) -> Statement:
    if default is None:
        return _on(table, "drop_default", "no default by now", column=column)
    return _on(table, "set_default", "its default", column=column, value=trusted(default))


def _on(table: TableDesign, name: str, summary: str, **parts: sql.Composable) -> Statement:
    return on_table(table, "columns", name, summary, Lock.ACCESS_EXCLUSIVE, **parts)


def _pairs(table: TableDesign, facts: TableFacts) -> Iterator[tuple[OldColumn, NewColumn, ColumnFacts]]:
    for mapping in table.mappings:
        for before, new in mapping.pairs:
            if (old := facts.column(before.name)) is not None:
                yield before, new, old
