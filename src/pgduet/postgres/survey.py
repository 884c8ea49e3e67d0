"""Surveys a plan against the live catalogue and a sample of rows: what `check` and preflight know. Touches nothing."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgduet.errors import DownIncomplete, MissingRights, PgduetError
from pgduet.hazards import Hazard, hazard
from pgduet.operations.design import ROW, Design, OldColumn, TableDesign
from pgduet.operations.expressions import Expression
from pgduet.operations.facts import TableFacts
from pgduet.operations.names import version_schema
from pgduet.operations.questions import KeyPath, check_columns, column_paths, new_scope, place, questions
from pgduet.operations.resolve import resolve
from pgduet.operations.statement import trusted
from pgduet.plan.models import Plan, TableName
from pgduet.postgres import catalogue
from pgduet.postgres.expressions import analyse, canonical_type
from pgduet.postgres.session import Connection, rights, without_values
from pgduet.sql import block

SAMPLE_ROWS = 2000


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
    check_columns(plan, facts)
    types: dict[KeyPath, str] = {}
    for path, operation, number in column_paths(plan):
        with _at((*path, "type")):
            types[path] = await canonical_type(conn, operation.columns[number].type)
    expressions: dict[KeyPath, Expression] = {}
    for question in questions(plan, facts, types):
        with _at(question.path):
            expressions[question.path] = await analyse(conn, question)
    design = resolve(plan, facts, types, expressions)
    hazards: list[Hazard] = []
    for table in design.tables:
        table_facts = facts[str(TableName(table.schema_name, table.table))]
        await _check_down_of_nothing(conn, table, new_scope(plan, table_facts, types))
        hazards += await _sampled(conn, table)
        hazards += await _known(conn, plan, table, table_facts)
    return Survey(design, facts, tuple(hazards))


async def _facts(conn: Connection, plan: Plan) -> dict[str, TableFacts]:
    facts: dict[str, TableFacts] = {}
    for index, operation in enumerate(plan.operations):
        relation = operation.relation
        own = frozenset({"pgduet_views", version_schema(relation.schema, plan.version.from_)})
        with _at(("operations", index, operation.kind, "table")):
            facts[str(relation)] = await catalogue.table(conn, relation.schema, relation.name, own)
            if not facts[str(relation)].owned:
                raise MissingRights(
                    f"the worker's role does not own {relation}, or may not create schemas in this database",
                    hint="`pgduet setup DATABASE --print-sql` prints the grants it needs.",
                )
    return facts


async def _check_down_of_nothing(conn: Connection, table: TableDesign, scope: dict[str, str]) -> None:
    """Refuse a `down` that leaves a NOT NULL column empty when the nullable new columns are."""
    may_be_empty = {column.name for column in table.new_columns if column.nullable}
    for mapping in table.mappings:
        for old in mapping.replaces:
            read = set(old.down.columns)
            if not old.not_null or (read and not read & may_be_empty):
                continue
            if await _is_empty(conn, old, scope):
                raise DownIncomplete(
                    f'`down` gives NULL for "{old.name}", which must not be empty, when'
                    f" {', '.join(sorted(read & may_be_empty)) or 'anything'} is NULL",
                    place=place(("operations", mapping.position, "replace_columns", "down", old.name)),
                    snippet=old.down.source,
                    hint="Give the new column `nullable: false`, or let `down` fall back on a value (coalesce).",
                )


async def _is_empty(conn: Connection, old: OldColumn, scope: dict[str, str]) -> bool:
    row = sql.SQL(", ").join(
        sql.SQL("NULL::{} AS {}").format(trusted(kind), sql.Identifier(name)) for name, kind in scope.items()
    )
    try:
        query = block("survey", "down_of_nothing").format(value=old.down.over(ROW), row=row)
        found = await (await conn.execute(query)).fetchone()
    except psycopg.DataError:
        return True
    return bool(found and found["empty"])


async def _sampled(conn: Connection, table: TableDesign) -> list[Hazard]:
    """Map sampled rows up and down; raises when `down` loses a NOT NULL value, warns when the map is lossy or fails."""
    if not table.old_columns or not table.derived:
        return []
    back = {old.name: old.down.over(ROW, renamed=table.physical) for old in table.old_columns}
    counts = [_count(sql.SQL("{} IS NULL").format(back[o.name]), f"empty_{n}") for n, o in enumerate(table.old_columns)]
    counts += [
        _count(table.differs_from(o.name, ROW, back[o.name]), f"lossy_{n}") for n, o in enumerate(table.old_columns)
    ]
    ups = [
        sql.SQL("{} AS {}").format(column.up_value(ROW), sql.Identifier(column.physical)) for column in table.derived
    ]
    # An added column without `up` is empty in the sample, as it will be for rows that exist.
    ups += [
        sql.SQL("NULL::{} AS {}").format(trusted(c.type), sql.Identifier(c.physical))
        for c in table.new_columns
        if c.up is None
    ]
    query = block("survey", "sample").format(
        counts=sql.SQL(", ").join(counts),
        ups=sql.SQL(", ").join(ups),
        relation=table.relation,
        limit=sql.Literal(SAMPLE_ROWS),
    )
    try:
        found = await (await conn.execute(query)).fetchone()
    except psycopg.Error as error:
        return [hazard("PD-H03", f"{table.label}: {without_values(error.diag.message_primary or '')}")]
    return _judge(table, found or {})


def _judge(table: TableDesign, found: dict[str, int]) -> list[Hazard]:
    warned = []
    for number, old in enumerate(table.old_columns):
        mapping = next(m for m in table.mappings if old in m.replaces)
        if old.not_null and found.get(f"empty_{number}"):
            raise DownIncomplete(
                f'`down` gives NULL for "{old.name}", which must not be empty, in {found[f"empty_{number}"]} of'
                f" {found['rows']} sampled rows",
                place=place(("operations", mapping.position, "replace_columns", "down", old.name)),
                snippet=old.down.source,
                hint="`down` must give back a value for every row that `up` maps.",
            )
        if lossy := found.get(f"lossy_{number}"):
            warned.append(hazard("PD-H02", f"{table.label}.{old.name}: {lossy} of {found['rows']} sampled rows"))
    return warned


async def _known(conn: Connection, plan: Plan, table: TableDesign, facts: TableFacts) -> list[Hazard]:
    made = [hazard("PD-H07", table.label)]
    drifting = [c.name for c in table.derived if c.up is not None and not c.up.immutable]
    if drifting:
        made.append(hazard("PD-H01", f"{table.label}: {', '.join(drifting)}"))
    if not table.key:
        made.append(hazard("PD-H05", table.label))
    lost = sorted({what for old in table.old_columns if (c := facts.column(old.name)) for what in c.lost_with_it})
    if lost:
        made.append(hazard("PD-H06", f"{table.label}: {', '.join(lost)}"))
    if facts.user_update_triggers:
        names = ", ".join(facts.user_update_triggers)
        if plan.policy.user_triggers == "fire":
            made.append(hazard("PD-H12", f"{table.label}: {names} will fire, as the plan says"))
        elif (await rights(conn)).mute_triggers:
            made.append(hazard("PD-H12", f"{table.label}: {names}, suppressed as the plan says"))
        else:
            raise MissingRights(
                f"triggers of {table.label} would fire in the backfill ({names}), and the worker's role may not mute them",
                place=place(("policy", "user_triggers")),
                hint="GRANT SET ON PARAMETER session_replication_role to the role, or set user_triggers: fire.",
            )
    return made


def _count(condition: sql.Composable, name: str) -> sql.Composable:
    return block("survey", "count_if").format(condition=condition, name=sql.Identifier(name))


class _at:  # noqa: N801  (used as a context manager, like a function)
    """Gives errors that have no place the one of the value under survey."""

    def __init__(self, path: KeyPath) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PgduetError) and error.place is None:
            error.place = place(self.path)
            error.args = (error.render(),)
