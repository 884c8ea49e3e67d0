"""Surveys a plan against the live catalogue and a sample of rows: what `check` and preflight know. Touches nothing."""

from dataclasses import dataclass
from typing import Any

from pgduet.errors import (
    ExpressionInvalid,
    MissingRights,
    NotSupported,
    UnknownColumn,
    UnknownTable,
)
from pgduet.hazards import Hazard, hazard
from pgduet.operations import constraint_refusals, refusals
from pgduet.operations.alter_column import copies
from pgduet.operations.answers import Accepted, Answers, located
from pgduet.operations.create_table import named_indexes
from pgduet.operations.dependents import changed_views
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.expressions import Expression
from pgduet.operations.facts import TableFacts
from pgduet.operations.questions import KeyPath, new_scope, place, questions, types_to_ask
from pgduet.operations.references import asked
from pgduet.operations.resolve import mappings_of, resolve
from pgduet.operations.shaped import wanted as brought_by_shapes
from pgduet.plan.columns import References
from pgduet.plan.constraint_operations import TableReferences
from pgduet.plan.models import (
    AlterColumn,
    CreateIndex,
    CreateTable,
    DropIndex,
    DropTable,
    Plan,
    RenameTable,
    ShapeOperation,
    TableChange,
    TableName,
)
from pgduet.postgres import catalogue, constraints
from pgduet.postgres.aggregates import declared
from pgduet.postgres.carrying import carried_checks, carried_indexes
from pgduet.postgres.dependents import dependents_of
from pgduet.postgres.expressions import analyse, canonical_type
from pgduet.postgres.indexing import with_indexes
from pgduet.postgres.new_names import check_names, refuse_twice
from pgduet.postgres.probed import check_probes
from pgduet.postgres.readers import old_readers
from pgduet.postgres.sampled import check_down_of_nothing, hazards_of, sampled_hazards
from pgduet.postgres.session import Connection
from pgduet.postgres.shaped import shaped


@dataclass(frozen=True, slots=True)
class Survey:
    """A plan that PostgreSQL accepts: its design, the facts it rests on, and what people should know."""

    design: Design
    facts: dict[str, TableFacts]
    hazards: tuple[Hazard, ...]


async def survey(conn: Connection, plan: Plan) -> Survey:
    """Check a plan against the database; `conn` has the role's own search_path.

    Raises:
        PlanInvalid: the first thing that is wrong, with its path in the plan.
        MissingRights: the role does not own a table.
    """
    facts = await _facts(conn, plan)
    taken = await _taken(conn, plan)
    refusals.check(plan, facts, lambda schema, name: (schema, name) in taken)
    answers = await _answers(conn, plan, facts)
    checks = {
        str(name): await carried_checks(conn, facts[str(name)], mappings_of(plan, name, facts[str(name)], answers))
        for name in plan.tables()
    }
    design = await with_indexes(conn, plan, resolve(plan, facts, answers, checks), facts, answers)
    constraint_refusals.check_targets(plan, design, facts, answers)
    shapes = await shaped(conn, plan, facts, answers)
    design = design.model_copy(update=shapes.designs)
    hazards: list[Hazard] = list(shapes.hazards)
    tables: list[TableDesign] = []
    for resolved in design.tables:
        table_facts = facts[str(TableName(resolved.schema_name, resolved.table))]
        table = await constraints.tried(conn, plan, table_facts, answers, resolved)
        tables.append(table)
        await check_names(conn, plan, table, table_facts)
        with located(_altered(table)):
            over = await dependents_of(conn, table)
        hazards += [hazard("PD-H14", change) for change in changed_views(over)]
        await check_down_of_nothing(conn, table, table_facts, new_scope(plan, table_facts, answers.types))
        hazards += await sampled_hazards(conn, table)
        hazards += await hazards_of(conn, plan, table, table_facts)
        hazards += constraints.hazards_of(plan, table, table_facts)
    refuse_twice(plan, design, facts)
    created = [await constraints.tried_created(conn, plan, answers, each) for each in design.created]
    design = design.model_copy(update={"tables": tuple(tables), "created": tuple(created)})
    measured = await declared(conn, plan, facts, answers.types, design)
    design = design.model_copy(update={"aggregates": measured})
    hazards += [hazard("PD-H13", what) for what in await old_readers(conn, design)]
    hazards += await unseen(conn)
    await check_probes(conn, plan)
    return Survey(design, facts, tuple(hazards))


async def unseen(conn: Connection) -> list[Hazard]:
    """Tell where the backfill's pace cannot follow what the worker's role may not see."""
    row = await (
        await conn.execute("SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS sees, current_user AS role")
    ).fetchone()
    assert row is not None  # noqa: S101  (a SELECT without FROM has one row)
    return [] if row["sees"] else [hazard("PD-H20", f"role {row['role']}")]


async def _facts(conn: Connection, plan: Plan) -> dict[str, TableFacts]:
    facts: dict[str, TableFacts] = {}
    for index, operation in enumerate(plan.operations):
        if not isinstance(operation, TableChange | DropIndex | DropTable | ShapeOperation):
            continue
        top: KeyPath = ("operations", index, operation.kind)
        if isinstance(operation, DropIndex):
            with located((*top, "name")):
                found = await catalogue.index(conn, operation.index.schema, operation.index.name)
            relation = TableName(found.schema_name, found.table)
        else:
            relation = operation.relation
        with located((*top, "name" if isinstance(operation, DropIndex) else "table")):
            facts[str(relation)] = await catalogue.table(conn, relation.schema, relation.name)
            if not facts[str(relation)].owned:
                raise MissingRights(
                    f"the worker's role does not own {relation}, or may not create schemas in this database",
                    hint="`pgduet setup DATABASE --print-sql` prints the grants it needs.",
                )
    return facts


async def _taken(conn: Connection, plan: Plan) -> set[tuple[str, str]]:
    """Find which of the names that the plan wants for tables are taken."""
    wanted: list[tuple[KeyPath, str, str]] = []
    for index, operation in enumerate(plan.operations):
        path: KeyPath = ("operations", index, operation.kind, "table")
        if isinstance(operation, CreateTable):
            schema = operation.relation.schema
            wanted.append((path, schema, operation.relation.name))
            wanted += [((*path[:-1], *at), schema, name) for at, name in named_indexes(operation)]
            await _check_schema(conn, operation.relation.schema, path)
        elif isinstance(operation, CreateIndex):
            await _check_schema(conn, operation.relation.schema, path)
        elif isinstance(operation, RenameTable):
            wanted.append((path, operation.relation.schema, operation.to))
    wanted += [(path, name.schema, name.name) for path, name in brought_by_shapes(plan)]
    return {(schema, name) for _, schema, name in wanted if await catalogue.relation_there(conn, schema, name)}


async def _check_schema(conn: Connection, schema: str, path: KeyPath) -> None:
    found = await catalogue.rows(conn, "schema_there", {"schema": schema})
    if not found:
        raise UnknownTable(f"schema {schema} does not exist", place=place(path), hint="Create it first.")
    if not found[0]["may_create"]:
        hint = f"GRANT CREATE ON SCHEMA {schema} to the worker's role."
        raise MissingRights(
            f"the worker's role may not create tables or indexes in schema {schema}", place=place(path), hint=hint
        )


async def _answers(conn: Connection, plan: Plan, facts: dict[str, TableFacts]) -> Answers:
    types: dict[KeyPath, str] = {}
    for path, name in types_to_ask(plan):
        with located((*path, "type")):
            types[path] = await canonical_type(conn, name)
    for index, operation in enumerate(plan.operations):
        if isinstance(operation, AlterColumn):
            column = facts[str(operation.relation)].column(operation.column)
            types.setdefault(("operations", index, "alter_column"), column.type if column else "")
    await _refuse_rewriting(conn, plan, facts, types)
    expressions: dict[KeyPath, Expression] = {}
    for question in questions(plan, facts, types):
        with located(question.path):
            try:
                expressions[question.path] = await analyse(conn, question)
            except ExpressionInvalid as error:
                if not question.implied:
                    raise
                side = str(question.path[-1])
                raise ExpressionInvalid(
                    f"without `{side}` the value stays the same, and PostgreSQL cannot convert it: {error.message}",
                    hint=f"Give `{side}`: an SQL expression.",
                ) from error
    answers = Answers(types, expressions, {}, await _targets(conn, plan))
    indexes: dict[tuple[str, str], Accepted] = {}
    for relation in plan.tables():
        table = facts[str(relation)]
        indexes |= await carried_indexes(conn, table, mappings_of(plan, relation, table, answers))
    return Answers(types, expressions, indexes, answers.targets)


async def _refuse_rewriting(
    conn: Connection, plan: Plan, facts: dict[str, TableFacts], types: dict[KeyPath, str]
) -> None:
    """Refuse a type whose column cannot be added by a change of the catalogue alone: clients would wait for the whole rewrite."""
    for path, kind in types.items():
        operation = plan.operations[int(path[1])]
        if isinstance(operation, CreateTable):
            continue
        if isinstance(operation, AlterColumn):
            column = facts[str(operation.relation)].column(operation.column)
            if column is None or not copies(operation, column):
                continue
        for row in await catalogue.rows(conn, "constrained_domain", {"type": kind}):
            raise NotSupported(
                f"{kind} is a domain with constraints ({row['says'] or 'NOT NULL'}): PostgreSQL adds a column of it by rewriting"
                " the table, and locks everybody out meanwhile",
                place=place((*path, "type")),
                hint=f"Use its base type {row['base']}, and write the domain's condition as the column's `check`.",
            )


async def _targets(conn: Connection, plan: Plan) -> dict[KeyPath, tuple[str, ...]]:
    """Find the columns that foreign keys of the plan point to."""
    made = {o.relation: o for o in plan.operations if isinstance(o, CreateTable)}
    found: dict[KeyPath, tuple[str, ...]] = {}
    for path, references in asked(plan):
        with located(path):
            if isinstance(references, TableReferences):
                count = len(constraints.at(plan, path[:-1]).columns)
                found[path] = await _target_columns(conn, references, made.get(references.relation), count)
            elif references.relation in made:
                found[path] = _own_target(made[references.relation], references)
            else:
                found[path] = await _target(conn, references)
    return found


def _own_target(table: CreateTable, references: References) -> tuple[str, ...]:
    wanted = references.column
    if wanted is None and len(table.key) == 1:
        return table.key
    single = [columns[0] for columns in table.unique if len(columns) == 1]
    if wanted not in single:
        raise UnknownColumn(
            f'"{wanted or "its key"}" of {table.relation} is not unique by itself: nothing can refer to it',
            hint=f"Name a unique column: {', '.join(single) or 'it has none'}.",
        )
    return (wanted,)


async def _target_columns(
    conn: Connection, references: TableReferences, made: CreateTable | None, count: int
) -> tuple[str, ...]:
    """Find the columns that a foreign key over several points to: the key's, or those of a unique index without a condition."""
    relation = references.relation
    if made is not None:
        key, unique = list(made.key), [list(columns) for columns in made.unique]
    else:
        found = await _refer(conn, relation)
        key, unique = found["key"] or [], found["unique_sets"]
    wanted = list(references.columns) or key
    if len(wanted) != count or sorted(wanted) not in [sorted(columns) for columns in unique]:
        listed = "; ".join(f"({', '.join(columns)})" for columns in unique)
        what = f"({', '.join(wanted)})" if references.columns else f"its key, of {len(key)} columns,"
        raise UnknownColumn(
            f"{what} of {relation} has no unique index that {count} columns could refer to",
            hint=f"Name columns that have one: {listed or 'it has none'}.",
        )
    return tuple(wanted)


async def _refer(conn: Connection, relation: TableName) -> dict[str, Any]:
    """Read what of a table can be referred to."""
    found = await catalogue.rows(conn, "target", {"schema": relation.schema, "table": relation.name})
    if not found or found[0]["kind"] not in {"r", "p"}:
        raise UnknownTable(f"table {relation} does not exist")
    if not found[0]["may_refer"]:
        raise MissingRights(
            f"the worker's role may not refer to {relation}", hint=f"GRANT REFERENCES ON {relation} to the role."
        )
    return found[0]


async def _target(conn: Connection, references: References) -> tuple[str, ...]:
    relation = references.relation
    found = await _refer(conn, relation)
    key, unique = found["key"] or [], found["unique_columns"] or []
    if references.column is None and len(key) == 1:
        return (key[0],)
    if references.column is None or references.column not in unique:
        raise UnknownColumn(
            f'"{references.column or "its key"}" of {relation} is not unique by itself: nothing can refer to it',
            hint=f"Name a unique column: {', '.join(unique) or 'it has none'}.",
        )
    return (references.column,)


def _altered(table: TableDesign) -> KeyPath:
    """Give the place of the first operation that alters a column of the table."""
    mapping = next((mapping for mapping in table.mappings if mapping.pairs), None)
    if mapping is None:
        return ()
    return ("operations", mapping.position, mapping.kind, "column" if mapping.kind == "alter_column" else "table")
