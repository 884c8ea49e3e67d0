"""Designs of whole-table shapes, made with what PostgreSQL says: a shadow or a parent above, an extracted table, merged rows.

Each kind has one function here, which gives its design and what people should know of it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from pgduet.errors import NotSupported
from pgduet.hazards import Hazard
from pgduet.operations import merge_rows_resolve, shadow, shadow_resolve
from pgduet.operations.answers import Answers, KeyPath, located, place
from pgduet.operations.attach_design import AttachDesign
from pgduet.operations.facts import TableFacts
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.names import fit
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_final import Hung
from pgduet.operations.shaped import shaping
from pgduet.operations.swap_refusals import ROUTE
from pgduet.plan.models import ExtractTable, MergeRows, Plan, ShadowTable
from pgduet.plan.shadow_operations import PartitionBy
from pgduet.postgres import copying, merging, shadow_checked, shadowing, swapping
from pgduet.postgres.partitioning import choose
from pgduet.postgres.session import Connection, condition

_DEFAULT = re.compile(r"\s*DEFAULT\s*", re.IGNORECASE)


@dataclass
class Shaped:
    """The designs of a plan's shapes, and what people should know."""

    shadows: list[ShadowDesign] = field(default_factory=list)
    attached: list[AttachDesign] = field(default_factory=list)
    merged: list[MergeDesign] = field(default_factory=list)
    hazards: list[Hazard] = field(default_factory=list)

    @property
    def designs(self) -> dict[str, object]:
        """The design's own fields."""
        return {"shadows": tuple(self.shadows), "attached": tuple(self.attached), "merged": tuple(self.merged)}


async def shaped(conn: Connection, plan: Plan, facts: Mapping[str, TableFacts], answers: Answers) -> Shaped:
    """Make the designs of all operations that give a table another shape.

    Raises:
        PgduetError: the first thing that PostgreSQL cannot do, with its path in the plan.
    """
    made = Shaped()
    for index, operation in shaping(plan):
        table = facts[str(operation.relation)]
        if isinstance(operation, ShadowTable | ExtractTable):
            await _shadow(conn, plan, index, operation, table, answers, made)
        elif isinstance(operation, MergeRows):
            await _merge(conn, plan, index, operation, table, made)
    return made


async def _shadow(
    conn: Connection,
    plan: Plan,
    index: int,
    operation: ShadowTable | ExtractTable,
    table: TableFacts,
    answers: Answers,
    made: Shaped,
) -> None:
    """Make a shadow, or attach the table to a parent where that gives the same shape."""
    swaps = isinstance(operation, ShadowTable) and plan.policy.cutover.mode == "swap"
    why_copied: Sequence[str] = ()
    if isinstance(operation, ShadowTable):
        choice = await choose(conn, plan.name, index, operation, table)
        # A table that is attached gets another name at contract only.
        if choice.design is None or not swaps:
            made.hazards += choice.hazards
        if choice.design is not None and not swaps:
            made.attached.append(choice.design)
            return
        why_copied = choice.reasons
    top: KeyPath = ("operations", index, operation.kind)
    await _check_role(conn, top)
    if isinstance(operation, ShadowTable) and operation.partition_by:
        _refuse_homeless(table.table, operation.partition_by, why_copied, (*top, "partition_by"))
    sequence = await _sequence(conn, table)
    design = shadow_resolve.resolve(plan.name, index, operation, table, answers, sequence=sequence)
    hung = await copying.hung(conn, design)
    _refuse_unreferable(design, hung, (*top, "table"))
    update = {
        "unmappable": plan.policy.unmappable,
        "inbound": tuple(dict.fromkeys(_label(each.schema_name, each.table) for each in hung.inbound)),
        "outbound": tuple(dict.fromkeys(_label(*each.target) for each in hung.outbound if each.target)),
    }
    design = design.model_copy(update=update)
    await _try(conn, design, top)
    if swaps and isinstance(operation, ShadowTable):
        design = design.model_copy(update={"swaps": True})
        made.hazards += await swapping.hazards(conn, index, operation, table, design)
    found = await shadow_checked.checked(conn, plan.name, design)
    _refuse_secured_swap(design, [each.id for each in found], top)
    made.hazards += found
    made.shadows.append(design)


def _label(schema: str, table: str) -> str:
    return sql.Identifier(schema, table).as_string(None)


async def _check_role(conn: Connection, top: KeyPath) -> None:
    """Find out whether somebody can own the views of a shadow."""
    with located((*top, "table")):
        await shadowing.check_view_owner(conn)


def _refuse_secured_swap(design: ShadowDesign, hazards: Sequence[str], top: KeyPath) -> None:
    """Refuse a swap beside row level security: by the table's name its owner would be bound by our policies alone."""
    if design.swaps and "PD-H39" in hazards:
        raise NotSupported(
            f"{design.schema_name}.{design.table} has row level security, with which its name cannot be swapped",
            place=place((*top, "table")),
            hint=f"Set {ROUTE}.",
        )


def _refuse_homeless(table: str, by: PartitionBy, why_copied: Sequence[str], path: KeyPath) -> None:
    """Refuse partitions that leave rows without one: an old client's write, which writes the copy as well, would fail for it.

    A table that is attached needs none before contract: until then all its rows are in one partition.
    """
    if by.method != "hash" and not any(_DEFAULT.fullmatch(each.bound) for each in by.partitions):
        why = (
            f" It would not be needed if the table could be attached, but: {'; '.join(why_copied)}."
            if why_copied
            else ""
        )
        raise NotSupported(
            "rows that fit into no partition would be refused, old clients' as well",
            place=place((*path, "partitions")),
            hint=f"Add a partition for them, `{fit(f'{table}_rest')}: DEFAULT`.{why}",
        )


def _refuse_unreferable(design: ShadowDesign, hung: Hung, path: KeyPath) -> None:
    """Refuse a shape to which the foreign keys that point to the table could not point: contract makes them anew."""
    if design.kind != "shadow_table":
        return
    kept = [set(design.primary_key), *(set(key.shadow) for key in design.unique)]
    for each in hung.inbound:
        if set(each.refers_to) not in kept:
            columns = ", ".join(each.refers_to)
            raise NotSupported(
                f"foreign key {each.name} of {each.schema_name}.{each.table} points to ({columns}), which would be unique no more",
                place=place(path),
                hint=f"Drop it first, or keep ({columns}) the new shape's key.",
            )


async def _sequence(conn: Connection, table: TableFacts) -> str | None:
    """Name the sequence that numbers the rows' identity."""
    column = next((column.name for column in table.columns if column.identity and column.name in table.key), None)
    if column is None:
        return None
    relation = _label(table.schema_name, table.table)
    found = await conn.execute("SELECT pg_get_serial_sequence(%s, %s) AS name", (relation, column))
    row = await found.fetchone()
    return str(row["name"]) if row and row["name"] else None


async def _try(conn: Connection, design: ShadowDesign, top: KeyPath) -> None:
    """Have PostgreSQL make the shadow, its partitions and its key, and take all of it back."""
    path = (*top, "partition_by") if design.partition_by else top
    try:
        async with conn.transaction(force_rollback=True):
            for statement in (*shadow.create_table(design), *shadow.key(design), *shadow.uniqueness(design)):
                await conn.execute(statement.sql)
    except psycopg.Error as error:
        message = error.diag.message_primary or condition(error.sqlstate)
        raise NotSupported(f"PostgreSQL cannot make this shape: {message}", place=place(path)) from None


async def _merge(
    conn: Connection, plan: Plan, index: int, operation: MergeRows, table: TableFacts, made: Shaped
) -> None:
    """Merge rows by what they have in common."""
    source = await merging.source(conn, table, list(operation.key))
    merge_rows_resolve.refuse(index, operation, table, source)
    answers = await merging.answers(conn, index, operation, table)
    design = merge_rows_resolve.resolve(plan.name, index, operation, table, answers, source)
    merge_rows_resolve.refuse_taken(design, await merging.taken(conn, design))
    made.merged.append(design)
    made.hazards += merge_rows_resolve.hazards(design, source, table)
