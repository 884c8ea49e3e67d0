"""How a table comes to be partitioned: attached to a parent as its first partition where that can be, else by a copy (ADR 31, 28).

Whether all rows fit into the first partition is asked of the rows, for a while only: `check` is not to read a terabyte. Where the
time was not enough, the table is attached all the same: the rows are asked again before publication, and before contract.
"""

from dataclasses import dataclass, field

import psycopg
from psycopg import errors, sql

from pgduet.errors import MissingRights, NotSupported, PlanInvalid, UnknownColumn
from pgduet.hazards import Hazard, hazard
from pgduet.operations import attach
from pgduet.operations.answers import KeyPath, place
from pgduet.operations.attach_design import AttachDesign, resolve
from pgduet.operations.facts import TableFacts
from pgduet.plan.problems import did_you_mean
from pgduet.plan.shadow_operations import PartitionBy, ShadowTable
from pgduet.postgres import attaching
from pgduet.postgres.readers import assigned
from pgduet.postgres.session import Connection, condition
from pgduet.sql import block

LOOK_S = 10
"""For so long rows are looked at before the plan is opened."""


@dataclass
class Choice:
    """The design of an attach, or the reasons against one; and what people should know."""

    design: AttachDesign | None = None
    reasons: tuple[str, ...] = ()
    hazards: list[Hazard] = field(default_factory=list)


async def choose(conn: Connection, plan: str, index: int, operation: ShadowTable, table: TableFacts) -> Choice:
    """Choose how a `shadow_table` is made.

    Raises:
        PlanInvalid: the partitions' bounds do not fit together, or their column is not there.
    """
    by = operation.partition_by
    if by is None:
        return Choice()
    at: KeyPath = ("operations", index, operation.kind, "partition_by")
    columns = [column.name for column in table.columns] + [column.name for column in operation.columns]
    for number, name in enumerate(by.columns):
        if name not in columns:
            message = f"{operation.relation} has no column `{name}`{did_you_mean(name, columns)}"
            raise UnknownColumn(message, place=place((*at, "columns", number)))
    found = resolve(plan, index, operation, table.key)
    if isinstance(found, AttachDesign):
        targets = (sql.Identifier(each.target_schema, each.target).as_string(None) for each in table.foreign)
        found = found.model_copy(update={"outbound": tuple(dict.fromkeys(targets))})
    reasons = (found,) if isinstance(found, str) else await attaching.in_the_way(conn, found)
    read_all = True
    if isinstance(found, AttachDesign) and not reasons:
        await _try(conn, found, at[:-1])
        reasons, read_all = await _beyond(conn, found, (*at, "partitions"))
    choice = Choice(found if isinstance(found, AttachDesign) and not reasons else None, reasons)
    choice.hazards += await _of_partitions(conn, operation, by)
    if choice.design is None:
        choice.hazards.append(hazard("PD-H46", f"{operation.relation}: {'; '.join(reasons)}"))
    else:
        choice.hazards += _of_attach(choice.design, by, read_all=read_all)
    return choice


async def _try(conn: Connection, design: AttachDesign, at: KeyPath) -> None:
    """Have PostgreSQL make the parent, and take it back."""
    carried = await attaching.carried(conn, design)
    try:
        async with conn.transaction(force_rollback=True):
            for statement in attach.create_parent(design, carried):
                await conn.execute(statement.sql)
    except errors.InsufficientPrivilege as error:
        raise MissingRights(
            f"the worker's role cannot make a parent for {design.label}: {error.diag.message_primary}",
            place=place((*at, "table")),
            hint=f"GRANT CREATE ON SCHEMA {design.schema_name} to the worker's role, and to the table's owner {carried.owner}.",
        ) from None
    except psycopg.Error as error:
        message = error.diag.message_primary or condition(error.sqlstate)
        raise NotSupported(f"PostgreSQL cannot make a parent for {design.label}: {message}", place=place(at)) from None


async def _beyond(conn: Connection, design: AttachDesign, at: KeyPath) -> tuple[tuple[str, ...], bool]:
    """Say whether rows lie beyond the first partition's bound, and whether all of them were read."""
    try:
        bound = await attaching.condition(conn, design)
    except (errors.InvalidObjectDefinition, errors.DataError, errors.ProgrammingError) as error:
        raise PlanInvalid(
            f"PostgreSQL does not take the partitions: {error.diag.message_primary}", place=place(at)
        ) from None
    try:
        async with conn.transaction(force_rollback=True):
            await conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(f"{LOOK_S}s")))
            found = await attaching.outside(conn, design, bound)
    except errors.QueryCanceled:
        return (), False
    if not found:
        return (), True
    return (f"rows lie beyond the bound of {design.first.name} ({attaching.shown(found)})",), True


async def _of_partitions(conn: Connection, operation: ShadowTable, by: PartitionBy) -> list[Hazard]:
    """Tell what holds for every partitioned table."""
    name = str(operation.relation)
    made = [hazard("PD-H45", f"{name}: by {by.method} of {', '.join(by.columns)}")]
    relation = sql.Identifier(operation.relation.schema, operation.relation.name).as_string(None)
    rows = await (await conn.execute(block("attach", "before_functions"), {"relation": relation})).fetchall()
    set_by = ((row["trigger"], assigned(row["source"], by.columns)) for row in rows)
    return [
        *made,
        *(hazard("PD-H47", f"{name}: {trigger} sets {', '.join(names)}") for trigger, names in set_by if names),
    ]


def _of_attach(design: AttachDesign, by: PartitionBy, *, read_all: bool) -> list[Hazard]:
    name = f"{design.schema_name}.{design.table}"
    bound = design.first.bound.rpartition("(")[2].rstrip(") ")
    where = f"{name} becomes {design.first.name}: rows from {bound} on hold contract"
    where += "" if read_all else f" (not all rows were read in {LOOK_S} s)"
    if not _has_rest(by):
        where += "; there is no DEFAULT partition"
    return [hazard("PD-H48", where), hazard("PD-H49", f"{name}, attached: no row is copied")]


def _has_rest(by: PartitionBy) -> bool:
    return any(each.bound.strip().upper() == "DEFAULT" for each in by.partitions)
