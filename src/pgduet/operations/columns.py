"""Columns in the making: added by expand, bound at cutover, named by contract; each step with its undo.

A new column has no default and no constraint until its time: a default on it would be taken by old clients' inserts, so that
`up` never ran, and a constraint would refuse rows that are not filled yet. Rows that exist may begin with a value: the default that
says so goes in the same transaction.
"""

from collections.abc import Mapping

from psycopg import sql

from pgduet.operations.alter_column import is_null
from pgduet.operations.column_design import Alias
from pgduet.operations.dependents import Dependents, aside, move
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.names import MARKER, constraint_name, fit
from pgduet.operations.statement import Lock, Statement, on_table, role, trusted


def add(table: TableDesign, begins_as: Mapping[str, str] | None = None) -> list[Statement]:
    """Add the new columns and the insert marker, all nullable and without default: a change of the catalogue only.

    `begins_as` gives values, as text and by physical name, that rows which exist have in a column from the start.
    """
    if not table.synced:
        return []
    made = []
    for column in table.new_columns:
        name = sql.Identifier(column.physical)
        kind = trusted(f"{column.type} COLLATE {column.collation}" if column.collation else column.type)
        if begins_as and column.physical in begins_as:
            value = sql.Literal(begins_as[column.physical])
            made.append(_on(table, "add_begun", f"add {column.physical}", column=name, type=kind, value=value))
            made.append(_on(table, "drop_default", "new rows begin empty", column=name))
        else:
            made.append(_on(table, "add", f"add {column.physical}", column=name, type=kind))
        if column.comment:
            made.append(_on(table, "comment", "its comment", column=name, text=sql.Literal(column.comment)))
        if column.statistics is not None:
            number = sql.Literal(column.statistics)
            made.append(_on(table, "statistics", "its statistics target", column=name, number=number))
        for grantee, right in column.grants:
            made.append(_on(table, "grant", "its grants", column=name, right=trusted(right), role=role(grantee)))
    return [*made, _on(table, "add_marker", "add the insert marker", column=sql.Identifier(MARKER))]


def drop(table: TableDesign) -> list[Statement]:
    """Drop what `add` added."""
    if not table.synced:
        return []
    names = (*(column.physical for column in table.new_columns), MARKER)
    return [_on(table, "drop", f"drop {name}", column=sql.Identifier(name)) for name in names]


def prove_required(design: Design, table: TableDesign) -> list[Statement]:
    """Add the checks from which PostgreSQL will know that no row is empty: they bind from here, and scan nothing."""
    return [
        statement
        for column, name in table.must_fill
        for statement in (
            # Twice in a row must work: a constraint has no IF NOT EXISTS.
            _on(table, "drop_constraint", "clear an earlier try", constraint=_check(design, name)),
            _on(
                table,
                "check_filled",
                f"{name} must be filled",
                column=sql.Identifier(column),
                constraint=_check(design, name),
            ),
        )
    ]


def validate_required(design: Design, table: TableDesign) -> list[Statement]:
    """Validate the checks: reads the whole table, lets everybody read and write meanwhile."""
    return [
        _on(
            table,
            "validate",
            f"every row has {name}",
            lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            constraint=_check(design, name),
        )
        for _, name in table.must_fill
    ]


def require(design: Design, table: TableDesign) -> list[Statement]:
    """Declare the columns NOT NULL; the validated checks spare the scan, and go."""
    return [
        statement
        for column, name in table.must_fill
        for statement in (
            _on(table, "set_not_null", f"{name} NOT NULL", column=sql.Identifier(column)),
            _on(table, "drop_constraint", "the check has served", constraint=_check(design, name)),
        )
    ]


def release(design: Design, table: TableDesign) -> list[Statement]:
    """Take back what `prove_required` and `require` declared."""
    return [
        statement
        for column, name in table.must_fill
        for statement in (
            _on(table, "drop_constraint", "no check", constraint=_check(design, name)),
            _on(table, "drop_not_null", f"{name} may be empty", column=sql.Identifier(column)),
        )
    ]


def finish(table: TableDesign, not_null_names: dict[str, str], over: Dependents) -> list[Statement]:
    """Drop the old columns, give the new ones their names and defaults: no way back.

    `not_null_names` maps physical columns to the name of their NOT NULL constraint (PostgreSQL 18 has such names); `over` is what
    the user has made over altered columns.
    """
    made = move(table, over)
    gone = {
        old.name: aside(old.name) if made and old.name in dict(over.columns) else old.name for old in table.old_columns
    }
    made += [_on(table, "drop", f"drop {name}", column=sql.Identifier(gone[name])) for name in gone]
    made += _renamed(table)
    # A column that was renamed keeps the constraint's name that it had.
    taken = {not_null_names.get(name) for name in table.kept}
    for column in table.new_columns:
        physical, name = sql.Identifier(column.physical), sql.Identifier(column.name)
        made.append(_on(table, "rename", f"{column.name} gets its name", column=physical, name=name))
        if column.default is not None:
            made.append(_on(table, "set_default", "its default", column=name, value=trusted(column.default)))
        proper = fit(f"{table.table}_{column.name}_not_null")
        if (constraint := not_null_names.get(column.physical)) and proper not in taken:
            own, name = sql.Identifier(constraint), sql.Identifier(proper)
            made.append(_on(table, "rename_constraint", "its name", constraint=own, name=name))
    return made


def drop_marker(table: TableDesign) -> list[Statement]:
    """Drop the insert marker, once no view reads it."""
    return [_on(table, "drop", "drop the insert marker", column=sql.Identifier(MARKER))] if table.synced else []


def rename_table(table: TableDesign) -> list[Statement]:
    """Give the table the name that it has in the new version."""
    if table.new_name is None:
        return []
    return [_on(table, "rename_table", f"becomes {table.new_name}", name=sql.Identifier(table.new_name))]


def _renamed(table: TableDesign) -> list[Statement]:
    """Rename columns that stay; where two change names, by way of a third."""
    made = []
    moving = [alias for alias in table.aliases if alias.new_name != alias.name]
    taken = {alias.name for alias in moving}
    aside = {alias.name: fit(f"_pgduet_{alias.new_name}") for alias in moving if alias.new_name in taken}
    for name, between in aside.items():
        made.append(_on(table, "rename", "out of the way", column=sql.Identifier(name), name=sql.Identifier(between)))
    # What goes out of the way of nothing goes first: it may have the name that another one gets.
    for alias in sorted(moving, key=lambda alias: alias.name in aside):
        old, new = sql.Identifier(aside.get(alias.name, alias.name)), sql.Identifier(alias.new_name)
        made.append(_on(table, "rename", f"{alias.name} becomes {alias.new_name}", column=old, name=new))
    return [*made, *(statement for alias in table.aliases for statement in _told(table, alias))]


def _told(table: TableDesign, alias: Alias) -> list[Statement]:
    made = []
    column = sql.Identifier(alias.new_name)
    if alias.default is not None and is_null(alias.default):
        # A default of NULL would stay in the catalogue, and in every dump.
        made.append(_on(table, "drop_default", "no default", column=column))
    elif alias.default is not None:
        made.append(_on(table, "set_default", "its default", column=column, value=trusted(alias.default)))
    if alias.comment is not None:
        made.append(_on(table, "comment", "its comment", column=column, text=sql.Literal(alias.comment)))
    return made


def _on(
    table: TableDesign, template: str, summary: str, lock: Lock = Lock.ACCESS_EXCLUSIVE, **parts: sql.Composable
) -> Statement:
    return on_table(table, "columns", template, summary, lock, **parts)


def _check(design: Design, name: str) -> sql.Identifier:
    return sql.Identifier(constraint_name(design.name, name))
