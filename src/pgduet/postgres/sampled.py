"""What rows and types say about a plan before anything is done: maps tried on a sample, and what people should know."""

import psycopg
from psycopg import sql

from pgduet.errors import DownIncomplete
from pgduet.hazards import Hazard, hazard
from pgduet.operations import carry, rekey
from pgduet.operations.answers import KeyPath, place
from pgduet.operations.column_design import ROW, ColumnMapping, OldColumn
from pgduet.operations.design import TableDesign
from pgduet.operations.facts import TableFacts
from pgduet.operations.statement import trusted
from pgduet.plan.models import Plan
from pgduet.postgres.muting import mutes
from pgduet.postgres.session import Connection, condition
from pgduet.sql import block

SAMPLE_ROWS = 2000


async def check_down_of_nothing(conn: Connection, table: TableDesign, facts: TableFacts, scope: dict[str, str]) -> None:
    """Refuse a `down` that leaves a NOT NULL column empty when the nullable new columns are."""
    may_be_empty = {column.name for column in table.new_columns if column.nullable}
    for mapping in table.mappings:
        for old in mapping.replaces:
            if old.down is None or not old.not_null:
                continue
            read = set(old.down.columns)
            if read and not read & may_be_empty:
                continue
            if await _is_empty(conn, old, _row(table, None, scope)) and await _is_empty(
                conn, old, _row(table, facts, scope)
            ):
                raise DownIncomplete(
                    f'`down` gives NULL for "{old.name}", which must not be empty, when'
                    f" {', '.join(sorted(read & may_be_empty)) or 'anything'} is NULL",
                    place=place(_down_path(mapping, old)),
                    snippet=old.down.source,
                    hint="Give the new column `nullable: false`, or let `down` fall back on a value (coalesce).",
                )


def _row(table: TableDesign, facts: TableFacts | None, scope: dict[str, str]) -> sql.Composable:
    """Render a row of the new version that has nothing; with `facts`, nothing where it may, and else what some row has."""
    new = {column.name: column for column in table.new_columns}
    parts = []
    for name, kind in scope.items():
        value: sql.Composable = sql.SQL("NULL")
        own = facts.column(table.physical.get(name, name)) if facts else None
        if facts and name in new and not new[name].nullable:
            value = block("survey", "some").format(value=new[name].up_value(ROW), relation=table.relation)
        elif own is not None and own.not_null and name not in new:
            some = sql.SQL("{}.{}").format(ROW, sql.Identifier(own.name))
            value = block("survey", "some").format(value=some, relation=table.relation)
        parts.append(sql.SQL("({})::{} AS {}").format(value, trusted(kind), sql.Identifier(name)))
    return sql.SQL(", ").join(parts)


async def _is_empty(conn: Connection, old: OldColumn, row: sql.Composable) -> bool:
    try:
        query = block("survey", "down_of_nothing").format(value=old.down_value(ROW), row=row)
        found = await (await conn.execute(query)).fetchone()
    except psycopg.DataError:
        return True
    return bool(found and found["empty"])


async def sampled_hazards(conn: Connection, table: TableDesign) -> list[Hazard]:
    """Map sampled rows up and down; raises when `down` loses a NOT NULL value, warns when the map is lossy or fails."""
    if not table.mirrored or not table.derived:
        return []
    olds = list(enumerate(table.mirrored))
    back = {old.name: old.down_value(ROW, table.physical) for _, old in olds}
    counts = [_count(sql.SQL("{} IS NULL").format(back[old.name]), f"empty_{n}") for n, old in olds]
    counts += [_count(table.differs_from(old.name, ROW, back[old.name]), f"lossy_{n}") for n, old in olds]
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
        return [hazard("PD-H03", f"{table.label}: {condition(error.sqlstate)}")]
    return _judge(table, found or {})


def _judge(table: TableDesign, found: dict[str, int]) -> list[Hazard]:
    warned = []
    for number, old in enumerate(table.mirrored):
        mapping = next(m for m in table.mappings if old in m.replaces)
        if old.not_null and found.get(f"empty_{number}"):
            raise DownIncomplete(
                f'`down` gives NULL for "{old.name}", which must not be empty, in {found[f"empty_{number}"]} of'
                f" {found['rows']} sampled rows",
                place=place(_down_path(mapping, old)),
                snippet=old.down.source if old.down else None,
                hint="`down` must give back a value for every row that `up` maps.",
            )
        if lossy := found.get(f"lossy_{number}"):
            warned.append(hazard("PD-H02", f"{table.label}.{old.name}: {lossy} of {found['rows']} sampled rows"))
    return warned


async def hazards_of(conn: Connection, plan: Plan, table: TableDesign, facts: TableFacts) -> list[Hazard]:
    """Tell what people should know of a table that gets a second representation."""
    if not table.synced:
        return []
    made = [hazard("PD-H07", table.label)]
    drifting = [c.name for c in table.derived if c.up is not None and not c.up.immutable]
    if drifting:
        made.append(hazard("PD-H01", f"{table.label}: {', '.join(drifting)}"))
    if not table.key:
        made.append(hazard("PD-H05", table.label))
    kept = {check.name for check in table.checks} | {index.name for index in table.indexes}
    kept |= carry.dropped_indexes(plan, facts) | {key.name for key in table.foreign_keys}
    if lost := carry.lost(facts, table.mappings, kept):
        made.append(hazard("PD-H06", f"{table.label}: {', '.join(lost)}"))
    if table.rekey:
        made.append(hazard("PD-H30", table.label))
        narrow = [each for each in rekey.standing(table, facts) if each.narrow and each.name in table.rekey.left]
        made += [hazard("PD-H31", f"{each.schema_name}.{each.table}: {each.name}") for each in narrow]
    if facts.user_update_triggers:
        names = ", ".join(facts.user_update_triggers)
        if plan.policy.user_triggers == "fire":
            made.append(hazard("PD-H12", f"{table.label}: {names} will fire, as the plan says"))
        else:
            await mutes(conn, table.label, plan.policy.user_triggers)
            made.append(hazard("PD-H12", f"{table.label}: {names}, suppressed as the plan says"))
    return made


def _count(condition: sql.Composable, name: str) -> sql.Composable:
    return block("survey", "count_if").format(condition=condition, name=sql.Identifier(name))


def _down_path(mapping: ColumnMapping, old: OldColumn) -> KeyPath:
    path: KeyPath = ("operations", mapping.position, mapping.kind, "down")
    return path if mapping.kind in {"alter_column", "drop_column"} else (*path, old.name)
