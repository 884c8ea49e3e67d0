"""Tries the constraints that a plan creates on empty temporary tables, and says what people should know of them.

The tables have the new version's columns; what PostgreSQL refuses (types that cannot be compared, no operator class) is known
before anything is done, and its own words for an exclusion constraint are kept. All of it is rolled back: nobody's table is locked.
Limits: PostgreSQL cannot build an exclusion constraint beside its clients. It is built under the lock budget, which a small table
fits into; for others it is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from pgduet.errors import ExpressionInvalid, NotSupported, Place, PlanInvalid, UnknownColumn
from pgduet.hazards import Hazard, hazard
from pgduet.operations.answers import Answers, KeyPath, place
from pgduet.operations.constraints import Exclusion
from pgduet.operations.design import TableDesign
from pgduet.operations.facts import TableFacts
from pgduet.operations.names import working_name
from pgduet.operations.questions import new_scope
from pgduet.operations.references import referring
from pgduet.operations.statement import Query, identifiers, trusted
from pgduet.operations.table_constraints import at_once, created, including, over_columns
from pgduet.operations.whole_tables import CreatedTable
from pgduet.plan.constraint_operations import TableConstraint
from pgduet.plan.models import CreateConstraint, CreateTable, DropConstraint, Plan, RenameConstraint, TableName
from pgduet.postgres import catalogue
from pgduet.postgres.expressions import Rollback
from pgduet.postgres.session import Connection
from pgduet.sql import block

EXCLUSION_PAGES = 64
"""So many pages hold a few thousand rows, whose index is built within the lock budget. What counts at cutover is the time."""
_SHAPE, _TARGET = sql.Identifier("_pgduet_shape"), sql.Identifier("_pgduet_target")
_KEY = {
    "check": "check",
    "unique": "columns",
    "primary_key": "columns",
    "foreign_key": "references",
    "exclude": "exclude",
}


async def tried(conn: Connection, plan: Plan, facts: TableFacts, answers: Answers, design: TableDesign) -> TableDesign:
    """Try what the plan creates on a table; gives the design with its exclusion constraints.

    Raises:
        UnknownColumn, ExpressionInvalid, NotSupported: with the path in the plan.
    """
    exclusions = []
    for path, operation in created(plan, facts):
        if operation.exclude:
            _check_size(facts, (*path, "type"))
        words = await _tried(conn, plan, new_scope(plan, facts, answers.types), design.physical, answers, path)
        if words:
            exclusions.append(
                Exclusion(
                    name=operation.name,
                    working=working_name(plan.name, operation.name),
                    definition=words["definition"],
                    elements=tuple(zip(words["expressions"], words["operators"], strict=True)),
                    where=words["predicate"],
                    at_once=at_once(operation, facts),
                )
            )
    return design.model_copy(update={"exclusions": tuple(exclusions)})


async def tried_created(conn: Connection, plan: Plan, answers: Answers, made: CreatedTable) -> CreatedTable:
    """Try the constraints of a table that the plan creates; gives the table with its exclusion constraints.

    Raises:
        UnknownColumn, ExpressionInvalid: with the path in the plan.
    """
    operation = plan.operations[made.position]
    whole = list(made.whole)
    for number, constraint in enumerate(getattr(operation, "constraints", ())):
        path: KeyPath = ("operations", made.position, "create_table", "constraints", number)
        words = await _tried(conn, plan, {column.name: column.type for column in made.columns}, {}, answers, path)
        if words:
            whole.append((constraint.name, words["definition"]))
    return made.model_copy(update={"whole": tuple(whole)})


def at(plan: Plan, path: KeyPath) -> TableConstraint:
    """Find a constraint by its path."""
    found: Any = plan.operations[int(path[1])]
    if isinstance(found, CreateTable):
        found = found.constraints[int(path[4])]
    assert isinstance(found, TableConstraint)  # noqa: S101  (the path is its own)
    return found


def hazards_of(plan: Plan, design: TableDesign, facts: TableFacts) -> list[Hazard]:
    """Tell whom constraints bind from when on, and who calls them by name."""
    made = []
    for _, operation in created(plan, facts):
        where = f"{design.label}: {operation.name}"
        made.append(hazard("PD-H21", f"{where} ({_binds(operation)})"))
        if operation.exclude:
            made.append(hazard("PD-H24", f"{where}, {facts.pages} pages"))
    taken = [each for each in plan.operations if isinstance(each, DropConstraint | RenameConstraint)]
    for each in taken:
        if (each.relation.schema, each.relation.name) == (facts.schema_name, facts.table):
            where = f"{design.label}: {each.name}"
            if isinstance(each, DropConstraint) and not each.copied:
                made.append(hazard("PD-H22", where))
            known = facts.constraint(each.name)
            if known and known.kind in {"u", "p", "x"}:
                made.append(hazard("PD-H23", where))
    return made


async def refuse_standing_on(conn: Connection, table: TableDesign, names: Sequence[str]) -> None:
    """Refuse to drop constraints or indexes on which somebody has put a foreign key since preflight.

    Raises:
        NotSupported: naming the foreign keys.
    """
    where = {"relation": table.label, "names": list(names)}
    found = await (await conn.execute(block("declare", "standing_on"), where)).fetchall()
    if found:
        keys = ", ".join(row["key"] for row in found)
        raise NotSupported(
            f'"{found[0]["name"]}" of {table.label} cannot be dropped: on it stand {keys}',
            hint="Drop those foreign keys, then advance.",
        )


def _binds(operation: CreateConstraint) -> str:
    copied = "new clients from publication on, " if operation.copied else ""
    also = ""
    if operation.references:
        also = f", and deletes and updates of {operation.references.relation}"
    return f"{operation.type}; {copied}everybody from cutover on{also}"


def _check_size(facts: TableFacts, path: KeyPath) -> None:
    if facts.pages > EXCLUSION_PAGES:
        raise NotSupported(
            f"{facts.schema_name}.{facts.table} has {facts.pages} pages, and PostgreSQL builds an exclusion constraint under a"
            f" lock that keeps everybody out: up to {EXCLUSION_PAGES} pages fit into the lock budget",
            place=place(path),
            hint="Bring it with a new table, or add it in a maintenance window of your own.",
        )


async def _tried(
    conn: Connection,
    plan: Plan,
    scope: Mapping[str, str],
    physical: Mapping[str, str],
    answers: Answers,
    path: KeyPath,
) -> dict[str, Any] | None:
    """Try a constraint over a row of the new version; gives PostgreSQL's words over the table's columns for an exclusion."""
    constraint = at(plan, path)
    words: dict[str, Any] | None = None
    try:
        async with conn.transaction():
            await _shape(conn, _SHAPE, scope)
            if constraint.references:
                targets = answers.targets[*path, "references"]
                kinds = await _target_types(conn, plan, constraint.references.relation, answers)
                await _shape(conn, _TARGET, {name: kinds[name] for name in targets}, unique=targets)
            query = block("declare", "add_whole").format(
                relation=sql.Identifier("pg_temp", "_pgduet_shape"),
                constraint=sql.Identifier(constraint.name),
                definition=_definition(constraint, answers, path),
            )
            # binary=True: the extended protocol, which takes one statement only.
            await conn.execute(query, binary=True)
            if constraint.exclude:
                words = await _words(conn, physical, constraint.name)
            raise Rollback
    except Rollback:
        return words
    except psycopg.Error as error:
        raise _refusal(error, constraint.name, place((*path, _KEY[constraint.type]))) from None


async def _shape(
    conn: Connection, name: sql.Identifier, columns: Mapping[str, str], unique: tuple[str, ...] = ()
) -> None:
    parts: list[sql.Composable] = [
        sql.SQL("{} {}").format(sql.Identifier(column), trusted(kind)) for column, kind in columns.items()
    ]
    if unique:
        parts.append(sql.SQL("UNIQUE ({})").format(identifiers(unique)))
    await conn.execute(block("carrying", "shape").format(shape=name, columns=sql.SQL(", ").join(parts)))


async def _target_types(conn: Connection, plan: Plan, relation: TableName, answers: Answers) -> dict[str, str]:
    for index, made in enumerate(plan.operations):
        if isinstance(made, CreateTable) and made.relation == relation:
            top: KeyPath = ("operations", index, "create_table", "columns")
            return {column.name: answers.types[*top, number] for number, column in enumerate(made.columns)}
    facts = await catalogue.table(conn, relation.schema, relation.name)
    return {column.name: column.type for column in facts.columns}


def _definition(constraint: TableConstraint, answers: Answers, path: KeyPath) -> Query:
    """Render the constraint over the new version's columns."""
    if constraint.check:
        return sql.SQL("CHECK ({})").format(answers.expressions[*path, "check"].alone())
    if constraint.references:
        target = sql.Identifier("pg_temp", "_pgduet_target")
        rest = trusted(referring(constraint, target, answers.targets[*path, "references"], {}))
        return sql.SQL("FOREIGN KEY ({}) {}").format(identifiers(constraint.columns), rest)
    if constraint.exclude:
        where = constraint.exclude.where
        return sql.SQL("EXCLUDE USING {} ({}\n) {} {} {}").format(
            sql.Identifier(constraint.exclude.method),
            trusted(constraint.exclude.elements),
            including(constraint),
            sql.SQL("WHERE ({}\n)").format(trusted(where)) if where else sql.SQL(""),
            trusted(constraint.timing),
        )
    return over_columns(constraint)


async def _words(conn: Connection, physical: Mapping[str, str], name: str) -> dict[str, Any]:
    """Read an exclusion constraint as PostgreSQL writes it over the table's own columns."""
    # By way of a third name each: two columns may change names.
    between = {new: f"_pgduet_between_{number}" for number, new in enumerate(physical)}
    for column, to in [*between.items(), *((between[new], own) for new, own in physical.items())]:
        query = block("carrying", "rename").format(shape=_SHAPE, column=sql.Identifier(column), name=sql.Identifier(to))
        await conn.execute(query)
    await conn.execute("SET LOCAL search_path = ''")
    return (await (await conn.execute(block("declare", "exclusion_words"), {"name": name})).fetchall())[0]


def _refusal(error: psycopg.Error, name: str, where: Place) -> PlanInvalid:
    message = error.diag.message_primary or str(error)
    detail = f": {error.diag.message_detail}" if error.diag.message_detail else ""
    kind = UnknownColumn if isinstance(error, errors.UndefinedColumn) else ExpressionInvalid
    return kind(
        f'PostgreSQL does not accept constraint "{name}": {message}{detail}',
        place=where,
        hint=error.diag.message_hint or "Correct the constraint; PostgreSQL must accept it for an empty table.",
    )
