"""What hangs on a column that changes, carried over to its successor: indexes, unique constraints, checks, foreign keys.

An index is one of the new column's own when PostgreSQL has accepted its definition over the new column (see
`pgduet.postgres.shapes`); what cannot be carried is reported as a hazard, and goes with the old column at contract.
"""

from collections.abc import Iterator

from psycopg import sql

from pgduet.operations.answers import Answers, KeyPath
from pgduet.operations.column_design import ColumnMapping
from pgduet.operations.constraints import CarriedIndex, Check, ForeignKey
from pgduet.operations.expressions import Expression
from pgduet.operations.facts import ForeignFacts, IndexFacts, TableFacts
from pgduet.operations.names import unique_name, usual_name, working_name
from pgduet.operations.references import foreign_key
from pgduet.operations.statement import identifiers
from pgduet.operations.table_constraints import dropped, renamed
from pgduet.plan.columns import Constrained
from pgduet.plan.models import AddColumn, AlterColumn, DropIndex, Plan, ReplaceColumns


def successors(mappings: tuple[ColumnMapping, ...]) -> dict[str, str]:
    """Map each altered column to the physical name of its successor."""
    return {old.name: new.physical for m in mappings for old, new in m.pairs}


def gone(mappings: tuple[ColumnMapping, ...]) -> set[str]:
    """Name the columns that go without a successor."""
    return {old.name for m in mappings if not m.pairs for old in m.replaces}


def concerned(columns: tuple[str, ...], mappings: tuple[ColumnMapping, ...]) -> bool:
    """Tell whether an object over these columns is to be carried over: it has a successor, and nothing of it goes."""
    names = set(columns)
    return bool(names & successors(mappings).keys()) and not names & gone(mappings)


def indexes(
    plan: Plan, table: TableFacts, mappings: tuple[ColumnMapping, ...], answers: Answers
) -> Iterator[CarriedIndex]:
    """Make the indexes anew that hang on altered columns, then those that new unique constraints need."""
    label = sql.Identifier(table.schema_name, table.table).as_string(None)
    names = _kept_names(plan, table)
    for index in table.all_indexes:
        accepted = answers.indexes.get((label, index.name))
        if accepted is not None and concerned(index.columns, mappings) and index.name in names:
            yield CarriedIndex(
                name=names[index.name],
                working=working_name(plan.name, names[index.name]),
                definition=accepted.definition,
                unique=index.unique,
                constraint=index.constraint and not index.primary,
                primary=index.primary,
                key=index.primary,
                deferrable=index.deferrable,
                deferred=index.deferred,
                shown=names[index.name],
                keys=accepted.keys if index.unique and not index.primary else (),
                predicate=accepted.predicate,
                nulls_distinct=accepted.nulls_distinct,
            )
    for mapping, number, _, given in brought(plan, mappings):
        if given.unique:
            column = mapping.columns[number]
            name = unique_name(table.table, column.name, given.unique.name)
            yield CarriedIndex(
                name=name,
                working=working_name(plan.name, name),
                definition=sql.SQL("USING btree ({})").format(sql.Identifier(column.physical)).as_string(None),
                unique=True,
                constraint=True,
                brought=(column.physical,),
                shown=column.name,
            )


def dropped_indexes(plan: Plan, table: TableFacts) -> set[str]:
    """Name the indexes of the table's schema that the plan drops: they have no successor, and nobody need be told."""
    found = (operation.index for operation in plan.operations if isinstance(operation, DropIndex))
    return {index.name for index in found if index.schema == table.schema_name}


def checks(
    plan: Plan,
    table: TableFacts,
    mappings: tuple[ColumnMapping, ...],
    physical: dict[str, str],
    carried: dict[str, Expression],
    answers: Answers,
) -> Iterator[Check]:
    """Give the checks of altered columns over their successors, then those that the plan brings."""
    after, kept = successors(mappings), _kept_names(plan, table)
    for check in table.checks:
        if check.name in carried and concerned(check.columns, mappings) and check.name in kept:
            yield Check(
                name=kept[check.name],
                working=working_name(plan.name, kept[check.name]),
                shown=check.name,
                expression=carried[check.name],
                names=after,
                carried=True,
            )
    for mapping, number, path, given in brought(plan, mappings):
        if given.check:
            column = mapping.columns[number]
            name = given.check.name or usual_name(table.table, column.name, "check")
            yield Check(
                name=name,
                working=working_name(plan.name, name),
                shown=column.name,
                expression=answers.expressions[*path, "check"],
                names=physical,
            )


def foreign_keys(
    plan: Plan, table: TableFacts, mappings: tuple[ColumnMapping, ...], answers: Answers
) -> Iterator[ForeignKey]:
    """Give the foreign keys of altered columns from their successors, then those that the plan brings."""
    after, kept = successors(mappings), _kept_names(plan, table)
    for key in table.foreign:
        if concerned(key.columns, mappings) and key.name in kept:
            yield ForeignKey(
                name=kept[key.name],
                working=working_name(plan.name, kept[key.name]),
                columns=tuple(after.get(name, name) for name in key.columns),
                target_schema=key.target_schema,
                target=key.target,
                target_columns=key.target_columns,
                rest=_rest(key),
                shown=key.name,
                carried=True,
            )
    for mapping, number, path, given in brought(plan, mappings):
        if given.references:
            column = mapping.columns[number]
            targets = answers.targets[*path, "references"]
            yield foreign_key(plan.name, table.table, column.name, column.physical, given.references, targets)


def _kept_names(plan: Plan, table: TableFacts) -> dict[str, str]:
    """Map what the plan does not drop to the name that it has at the end."""
    names = {each.name for each in table.all_indexes} | {each.name for each in table.checks}
    names = (names | {each.name for each in table.foreign}) - set(dropped(plan, table))
    names -= dropped_indexes(plan, table)
    return {name: name for name in names} | {name: to for name, to in renamed(plan, table) if name in names}


def brought(
    plan: Plan, mappings: tuple[ColumnMapping, ...]
) -> Iterator[tuple[ColumnMapping, int, KeyPath, Constrained | AlterColumn]]:
    """Walk the new columns with what the plan says of them: mapping, number of the column, path, its constraints."""
    for mapping in mappings:
        operation = plan.operations[mapping.position]
        top: KeyPath = ("operations", mapping.position, operation.kind)
        match operation:
            case AddColumn():
                yield mapping, 0, (*top, "column"), operation.column
            case ReplaceColumns():
                for number, column in enumerate(operation.columns):
                    yield mapping, number, (*top, "columns", number), column
            case AlterColumn():
                yield mapping, 0, top, operation


def lost(table: TableFacts, mappings: tuple[ColumnMapping, ...], kept: set[str]) -> list[str]:
    """Name what goes with old columns: indexes, checks, keys and statistics that nothing carries over (`kept` by name)."""
    going = {old.name for mapping in mappings for old in mapping.replaces}
    found: list[str] = [
        f"{kind} {each.name}"
        for kind, objects in (("index", table.indexes), ("check", table.checks), ("foreign key", table.foreign))
        for each in objects
        if set(each.columns) & going and each.name not in kept
    ]
    found += [what for name in going if (column := table.column(name)) for what in column.hanging("statistics")]
    return sorted(set(found))


def wanted_indexes(table: TableFacts, mappings: tuple[ColumnMapping, ...]) -> list[IndexFacts]:
    """Name the indexes that are to be made over successors, if PostgreSQL accepts them."""
    return [index for index in table.all_indexes if concerned(index.columns, mappings)]


def _rest(key: ForeignFacts) -> str:
    listed = sql.SQL("FOREIGN KEY ({}) ").format(identifiers(key.columns))
    plain = "FOREIGN KEY (" + ", ".join(key.columns) + ") "
    for prefix in (listed.as_string(None), plain):
        if key.definition.startswith(prefix):
            return key.definition.removeprefix(prefix)
    return key.definition.partition(") ")[2]
