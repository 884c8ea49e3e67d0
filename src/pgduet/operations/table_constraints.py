"""create_constraint, drop_constraint, rename_constraint: resolved into values of a design.

A column for which the plan gives `up` or `down` is made anew, of the same type, as `alter_column` does it: all of one operation's
columns are one mapping, since a constraint over several binds them together, and their expressions may read one another. Without
them the constraint stands over the table's own columns, and binds from cutover on.
Limits: an exclusion constraint comes into the design when PostgreSQL has been asked for its words (`pgduet.postgres.constraints`).
"""

from collections.abc import Iterator, Mapping

from psycopg import sql

from pgduet.operations.alter_column import successor
from pgduet.operations.answers import Answers, KeyPath
from pgduet.operations.column_design import ColumnMapping, NewColumn, OldColumn
from pgduet.operations.constraints import CarriedIndex, Check, ForeignKey
from pgduet.operations.facts import TableFacts
from pgduet.operations.names import working_name
from pgduet.operations.references import table_foreign_key
from pgduet.operations.statement import Query, identifiers, trusted
from pgduet.plan.constraint_operations import TableConstraint
from pgduet.plan.models import CreateConstraint, DropConstraint, Plan, RenameConstraint

Physical = Mapping[str, str]
"""From the new version's columns to the table's, where they differ."""


def mapping(
    plan: str, index: int, operation: CreateConstraint | DropConstraint, table: TableFacts, answers: Answers
) -> ColumnMapping | None:
    """Resolve the columns that get a second form, if any do."""
    if not operation.copied:
        return None
    top: KeyPath = ("operations", index, operation.kind)
    columns: list[NewColumn] = []
    replaces: list[OldColumn] = []
    for name in operation.copied:
        old = table.column(name)
        assert old is not None  # noqa: S101  (checked before)
        up, down = answers.expressions[*top, "up", name], answers.expressions[*top, "down", name]
        made = successor(plan, table, old, up)
        if isinstance(operation, CreateConstraint) and operation.type == "primary_key":
            made = made.model_copy(update={"nullable": False, "follows": ("default", "comment")})
        columns.append(made)
        replaces.append(OldColumn(name=name, type=old.type, not_null=old.not_null, down=down))
    return ColumnMapping(kind=operation.kind, position=index, columns=tuple(columns), replaces=tuple(replaces))


def created(plan: Plan, table: TableFacts) -> Iterator[tuple[KeyPath, CreateConstraint]]:
    """Walk the constraints that a plan creates on a table."""
    for index, operation in enumerate(plan.operations):
        if isinstance(operation, CreateConstraint) and _on(operation, table):
            yield ("operations", index, operation.kind), operation


def checks(plan: Plan, table: TableFacts, physical: Physical, answers: Answers) -> Iterator[Check]:
    """Resolve created checks."""
    for path, operation in created(plan, table):
        if operation.type == "check":
            yield Check(
                name=operation.name,
                working=working_name(plan.name, operation.name),
                shown=operation.name,
                expression=answers.expressions[*path, "check"],
                names=dict(physical),
                at_once=at_once(operation, table),
                no_inherit=operation.no_inherit,
            )


def indexes(plan: Plan, table: TableFacts, physical: Physical) -> Iterator[CarriedIndex]:
    """Resolve created unique constraints and primary keys into the indexes that they stand on."""
    for _, operation in created(plan, table):
        if operation.type in {"unique", "primary_key"}:
            names = tuple(physical.get(name, name) for name in operation.columns)
            listed = identifiers(names)
            nulls = sql.SQL(" NULLS NOT DISTINCT" if operation.nulls_not_distinct else "")
            yield CarriedIndex(
                name=operation.name,
                working=working_name(plan.name, operation.name),
                definition=sql.SQL("USING btree ({}){}").format(listed, nulls).as_string(None),
                unique=True,
                constraint=True,
                deferrable=operation.deferrable or operation.initially_deferred,
                deferred=operation.initially_deferred,
                brought=names,
                shown=operation.name,
                primary=operation.type == "primary_key",
                nulls_distinct=not operation.nulls_not_distinct,
                at_once=at_once(operation, table),
            )


def foreign_keys(plan: Plan, table: TableFacts, physical: Physical, answers: Answers) -> Iterator[ForeignKey]:
    """Resolve created foreign keys."""
    for path, operation in created(plan, table):
        if operation.references:
            key = table_foreign_key(plan.name, operation, physical, answers.targets[*path, "references"])
            yield key.model_copy(update={"at_once": at_once(operation, table)})


def filled(
    plan: Plan, table: TableFacts, physical: Physical, brought: Mapping[str, NewColumn]
) -> tuple[tuple[str, str], ...]:
    """Name the columns of a created primary key that may be empty now."""
    wanted = [name for _, o in created(plan, table) if o.type == "primary_key" for name in o.columns]
    found = []
    for name in wanted:
        own = table.column(physical.get(name, name))
        empty = brought[name].nullable if name in brought else own is not None and not own.not_null
        if empty:
            found.append((physical.get(name, name), name))
    return tuple(found)


def over_columns(constraint: TableConstraint) -> Query:
    """Render a unique constraint or a primary key over its columns."""
    unique = "UNIQUE NULLS NOT DISTINCT" if constraint.nulls_not_distinct else "UNIQUE"
    what = "PRIMARY KEY" if constraint.type == "primary_key" else unique
    names, along = identifiers(constraint.columns), including(constraint)
    return sql.SQL("{} ({}) {} {}").format(trusted(what), names, along, trusted(constraint.timing))


def including(constraint: TableConstraint) -> Query:
    """Render the columns that the index only carries along."""
    return sql.SQL("INCLUDE ({})").format(identifiers(constraint.include)) if constraint.include else sql.SQL("")


def dropped(plan: Plan, table: TableFacts) -> tuple[str, ...]:
    """Name the dropped constraints."""
    return tuple(o.name for o in plan.operations if isinstance(o, DropConstraint) and _on(o, table))


def renamed(plan: Plan, table: TableFacts) -> tuple[tuple[str, str], ...]:
    """Pair the old names of renamed constraints with the new ones."""
    return tuple((o.name, o.to) for o in plan.operations if isinstance(o, RenameConstraint) and _on(o, table))


def leaving(plan: Plan, table: TableFacts) -> set[str]:
    """Name the constraints whose names become free at contract."""
    return {*dropped(plan, table), *(name for name, _ in renamed(plan, table))}


def at_once(operation: CreateConstraint, table: TableFacts) -> bool:
    """Tell whether a constraint can have its name from cutover on: nothing that goes only at contract has it."""
    return operation.name not in table.constraint_names


def _on(operation: CreateConstraint | DropConstraint | RenameConstraint, table: TableFacts) -> bool:
    return (operation.relation.schema, operation.relation.name) == (table.schema_name, table.table)
