"""What `check` says of a shadow against the catalogue: refusals with their place and cure, hazards; and what contract waits for.

The one is asked before anything is made, the other before the point of no return: somebody may have given the anchor something
meanwhile.
"""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, LiteralString

import psycopg

from pgduet.errors import NotSupported
from pgduet.hazards import Hazard, hazard
from pgduet.operations.answers import KeyPath, place
from pgduet.operations.shadow_carried import Carried, Lost, grave, keeps_values, successors
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import trusted
from pgduet.operations.swap_refusals import ROUTE
from pgduet.operations.views import OURS
from pgduet.plan.table_operations import without_comments
from pgduet.postgres import shadow_leaves
from pgduet.postgres.expressions import Rollback
from pgduet.postgres.session import Connection
from pgduet.postgres.shadow_carrying import carried
from pgduet.sql import block

_AFTER = "Drop it first, and create it again after contract."
_CURES = {
    "policy": "Have the policy read columns that stay, or drop it for as long as the migration takes.",
    "row level security": "Change the columns in place, or turn row level security off for as long as the migration takes.",
    "rule": "Drop the rule, or write it as a trigger.",
    "trigger": "Have the trigger name columns that stay, or drop it first.",
    "security label": "Take the label off, and give it to the new table after contract.",
    "constraint": "Make the constraint NOT DEFERRABLE first.",
    "access method": "Use the table's default access method, or change the table in place.",
    "publication": "Take the table out of the publication, and put it in again after contract.",
    "replica identity": "Set REPLICA IDENTITY DEFAULT first.",
}
_SPREAD = "A partitioned table's keys have the columns by which it is spread: spread by the key."
LATE_KEYS = 180000
"""From this version of PostgreSQL on a foreign key of a partitioned table can be added NOT VALID."""


async def checked(conn: Connection, plan: str, design: ShadowDesign) -> list[Hazard]:
    """Check a shadow against the catalogue, and say what people should know.

    Raises:
        NotSupported: naming what cannot be carried, with the path in the plan.
    """
    found = await carried(conn, design, plan)
    top: KeyPath = ("operations", design.position, design.kind)
    for lost in grave(found):
        raise _refusal(design, top, lost)
    await _refuse_types(conn, design, top)
    await _refuse_leaks(conn, design, top)
    await _refuse_generated(conn, design, top)
    await _refuse_keys(conn, design, found, top)
    if design.parted:
        await _refuse_parted(conn, design, top)
    return [each async for each in _hazards(conn, design, found)]


async def not_yet(conn: Connection, plan: str, design: ShadowDesign) -> list[str]:
    """Say what contract could not get past, or would lose: asked while there is a way back."""
    found = await carried(conn, design, plan)
    built = {row["name"] for row in await _rows(conn, "built", {"relation": design.shadow_label})}
    named = {each.name for each in design.unique} if design.swapped else set()  # the swap has given them their names
    wanted = {each.name: each.name if each.name in named else each.working for each in found.indexes}
    missing = [f"index {name} has not been built" for name, as_ in wanted.items() if as_ not in built]
    return [*await in_the_way(conn, design, found), *missing]


async def in_the_way(conn: Connection, design: ShadowDesign, found: Carried) -> list[str]:
    """Say what contract could not get past whatever is built until then."""
    said = [f"{lost.kind} {lost.what}: {lost.why}" for lost in grave(found)]
    said += [f"{what} would be lost" for what in await _alone(conn, design)]
    return [*said, *[f"{what} depends on {design.label}" for what in await leaning(conn, design)]]


async def leaning(conn: Connection, design: ShadowDesign) -> list[str]:
    """Name what of others' stands upon the anchor, or upon columns that move, and would keep them from being dropped."""
    moved = sorted(successors(design).keys() - {column.anchor for column in design.key})
    columns = moved if design.kind == "extract_table" else None
    async with conn.transaction():
        await conn.execute("SET LOCAL search_path = ''")
        (table,) = await _rows(conn, "table", {"relation": design.relation_label})
        asked = {"oid": table["oid"], "shadow": design.shadow_label, "ours": OURS, "columns": columns}
        rows = await _rows(conn, "leaning", asked)
    return [row["what"] for row in rows]


async def _rows(conn: Connection, name: LiteralString, values: dict[str, Any]) -> list[dict[str, Any]]:
    return await (await conn.execute(block("shadow_carry", name), values)).fetchall()


def _refusal(design: ShadowDesign, path: KeyPath, lost: Lost) -> NotSupported:
    message = f"{lost.kind} {lost.what} of {design.schema_name}.{design.table} cannot be carried over: {lost.why}"
    return NotSupported(message, place=place(path), hint=_CURES.get(lost.kind, _AFTER))


async def _refuse_types(conn: Connection, design: ShadowDesign, top: KeyPath) -> None:
    """Refuse keys that the functions on the way would compare by another `=`, and values that they could not compare at all."""
    keys = {kind for column in design.key for kind in (column.anchor_type, column.shadow_type)}
    unique = {name for key in design.unique for name in key.shadow}
    keys |= {column.type for column in design.columns if column.name in unique}
    foreign = [row["name"] for row in await _rows(conn, "foreign_types", {"types": sorted(keys)})]
    if foreign:
        message = (
            f"{foreign[0]} is of a key, and its `=` is not PostgreSQL's own: rows would be found by another comparison"
        )
        raise NotSupported(
            message,
            place=place(top),
            hint="Use a type of pg_catalog's for the key: text with a collation, or an index over lower().",
        )
    compared = {c.type for c in (*design.lossy, *(c for c in design.columns if c.name in design.partition_key))}
    for kind in sorted(compared):
        if not await _comparable(conn, kind):
            message = f"values of {kind} cannot be compared without its schema: nothing could tell whether one is kept"
            raise NotSupported(
                message, place=place(top), hint="Leave the column as it is, or use a type of pg_catalog's."
            )


async def _refuse_leaks(conn: Connection, design: ShadowDesign, top: KeyPath) -> None:
    """Refuse keys by which new clients could not name one row without locking all: their `=` must not run ahead of the policies."""
    for column in design.key:
        for found in await _rows(conn, "leaking_types", {"types": [column.shadow_type]}):
            message = (
                f"{column.shadow} is of the key, and the `=` of {found['name']} is not leakproof: PostgreSQL would ask the policies"
                " by which new clients reach the table before it, so an UPDATE or DELETE of one row would read and lock all"
            )
            where = " before, in a plan of its own" if design.kind == "extract_table" else " in `columns`"
            hint = (
                f"Give the key a type whose `=` is{where}: bigint for whole numbers, text, uuid, timestamptz."
                f" Or have a superuser say so of PostgreSQL's: ALTER FUNCTION {found['function']} LEAKPROOF."
            )
            raise NotSupported(message, place=place(top), hint=hint)


async def _comparable(conn: Connection, kind: str) -> bool:
    try:
        async with conn.transaction():
            await conn.execute(block("shadow_carry", "only_pg_catalog"))
            await conn.execute(block("shadow_carry", "comparable").format(type=trusted(kind)))
            raise Rollback
    except Rollback:
        return True
    except psycopg.Error:
        return False


async def _refuse_generated(conn: Connection, design: ShadowDesign, top: KeyPath) -> None:
    """Refuse generated columns that would be computed from something else, or are computed when they are read."""
    after = successors(design)
    shown = {column.name for column in design.columns if column.generated is not None}
    keys = {column.anchor for column in design.key}
    for row in await _rows(conn, "generated", {"relation": design.relation_label}):
        if row["name"] not in shown:
            if design.kind == "extract_table" and (moved := sorted(set(row["columns"]) & after.keys() - keys)):
                message = f"generated column {row['name']} reads {', '.join(moved)}, which would move away from it"
                raise NotSupported(message, place=place(top), hint="Drop the column first.")
            continue
        if row["virtual"]:
            message = f"generated column {row['name']} is VIRTUAL: the shadow would keep its values"
            raise NotSupported(
                message, place=place(top), hint="Drop the column first, and add it again after contract."
            )
        changed = [
            n for n in row["columns"] if n not in after or after[n].name != n or not keeps_values(design, n, after[n])
        ]
        if changed:
            message = f"generated column {row['name']} reads {', '.join(changed)}, which the new version has otherwise"
            raise NotSupported(message, place=place(top), hint="Give the column anew in `columns`, or drop it first.")


async def _refuse_keys(conn: Connection, design: ShadowDesign, found: Carried, top: KeyPath) -> None:
    """Refuse foreign keys that would have nothing to stand on."""
    if design.kind == "extract_table":
        return
    async with conn.transaction():
        await conn.execute("SET LOCAL search_path = ''")
        (table,) = await _rows(conn, "table", {"relation": design.relation_label})
        rows = await _rows(conn, "constraints", {"oid": table["oid"]})
    unique = _unique(design, found, rows)
    by = (*top, "partition_by") if design.partition_by else top
    for row in rows:
        if row["kind"] != "f":
            continue
        key = f"foreign key {row['name']} of {row['schema']}.{row['table']}"
        for name in _changed(design, row):
            message = f"{key} is over {name}, which the new version has otherwise"
            raise NotSupported(message, place=place(top), hint=_AFTER)
        if _to_us(design, row) and {successors(design)[name].name for name in row["targets"]} not in unique:
            message = f"{key} refers to ({', '.join(row['targets'])}), which is no key of the new shape"
            raise NotSupported(message, place=place(by), hint=f"{_SPREAD} {_AFTER}" if design.partition_by else _AFTER)
        if row["own"] and design.partition_by and conn.info.server_version < LATE_KEYS:
            message = f"{key} cannot be added to a partitioned table without a scan under lock before PostgreSQL 18"
            raise NotSupported(message, place=place(by), hint=_AFTER)


async def _refuse_parted(conn: Connection, design: ShadowDesign, top: KeyPath) -> None:
    """Refuse what a partitioned anchor cannot bear."""
    name = f"{design.schema_name}.{design.table}"
    if design.swaps:
        message = f"{name} is partitioned, and so its name cannot be swapped"
        raise NotSupported(message, place=place((*top, "table")), hint=f"Set {ROUTE}.")
    if alone := await _alone(conn, design):
        message = f"{name} cannot get another shape: {'; '.join(alone)} would be lost"
        raise NotSupported(message, place=place((*top, "table")), hint="Drop it first, or give it to the whole table.")
    if design.unmappable == "archive" and design.lossy:
        names = ", ".join(column.name for column in design.lossy)
        message = (
            f"{names}: a value that {name} cannot hold is lost when an old client moves its row to another partition"
        )
        raise NotSupported(message, place=place(("policy", "unmappable")), hint="Set `policy.unmappable: refuse`.")


async def _alone(conn: Connection, design: ShadowDesign) -> list[str]:
    """Name what goes with single partitions; of an extraction these stay."""
    return await shadow_leaves.alone(conn, design) if design.parted and design.kind == "shadow_table" else []


def _unique(design: ShadowDesign, found: Carried, rows: list[dict[str, Any]]) -> list[set[str]]:
    """Give what a foreign key can refer to in the new shape: sets of columns."""
    after = successors(design)
    kept = {index.name for index in found.indexes if index.unique and index.predicate is None}
    constraints = [row for row in rows if row["own"] and row["name"] in kept]
    known = [set(design.primary_key), *(set(key.shadow) for key in design.unique)]
    return known + [{after[name].name for name in row["columns"]} for row in constraints]


def _to_us(design: ShadowDesign, row: dict[str, Any]) -> bool:
    return (row["target_schema"], row["target"]) == (design.schema_name, design.table)


def _changed(design: ShadowDesign, row: dict[str, Any]) -> Iterator[str]:
    """Name the columns on our side of a foreign key whose values are others in the new version."""
    after = successors(design)
    ours = [*(row["columns"] if row["own"] else ()), *(row["targets"] if _to_us(design, row) else ())]
    yield from (name for name in ours if name not in after or not keeps_values(design, name, after[name]))


async def _hazards(conn: Connection, design: ShadowDesign, found: Carried) -> AsyncIterator[Hazard]:
    where = f"{design.schema_name}.{design.table}"
    for lost in found.lost:
        yield hazard("PD-H32", f"{lost.kind} {lost.what} of {where}: {lost.why}")
    if design.parted:
        yield hazard("PD-H33", where)
    async with conn.transaction():
        await conn.execute("SET LOCAL search_path = ''")
        (table,) = await _rows(conn, "table", {"relation": design.relation_label})
        triggers = await _rows(conn, "triggers", {"oid": table["oid"]})
        publications = await _rows(conn, "publications", {"oid": table["oid"]})
        constraints = await _rows(conn, "constraints", {"oid": table["oid"]})
    for each in (*_of_triggers(design, triggers), *_of_other_rows(design, found, triggers, constraints)):
        yield each
    for each in _of_values(design, found, triggers):
        yield each
    yield hazard("PD-H35", where)
    yield hazard("PD-H36", "".join([where, *[each async for each in _leaking(conn, design, found)]]))
    for name, _ in found.unasked:
        yield hazard("PD-H37", f"publication {name}, {where}")
    for row in publications if design.partition_by or design.parted else ():
        if not row["via_root"]:
            will = "will publish" if design.partition_by else "publishes, until contract,"
            yield hazard("PD-H37", f"publication {row['name']}, {where}: it {will} partitions by their own names")
    for what in await leaning(conn, design):
        yield hazard("PD-H38", f"{what}, upon {where}")
    if found.secured:
        yield hazard("PD-H39", where)


async def _leaking(conn: Connection, design: ShadowDesign, found: Carried) -> AsyncIterator[str]:
    """Name the columns whose indexes serve new clients' writes no more, not even by `=`."""
    indexed = {name for index in found.indexes for name in index.keys}
    for column in design.columns:
        if column.name in indexed and await _rows(conn, "leaking_types", {"types": [column.type]}):
            yield f", {column.name} ({column.type}) by any comparison"


def _of_triggers(design: ShadowDesign, triggers: list[dict[str, Any]]) -> Iterator[Hazard]:
    for row in _read(triggers):
        if not row["definer"] and _asks_who(row["source"]):
            yield hazard("PD-H34", f"trigger function {row['function']} of {design.schema_name}.{design.table}")


def _of_other_rows(
    design: ShadowDesign, found: Carried, triggers: list[dict[str, Any]], constraints: list[dict[str, Any]]
) -> Iterator[Hazard]:
    """Name what writes other rows of the table than the one that a client writes."""
    where = f"{design.schema_name}.{design.table}"
    writing = [row for row in _read(triggers) if _writes(row["source"], design.table)]
    besides = [f"trigger {row['name']}" for row in writing if row["after"]]
    for what in (*besides, *(f"foreign key {row['name']}" for row in constraints if row["itself"])):
        yield hazard("PD-H25", f"{what} of {where}")
    told = {each.name for each in design.released}
    for index in found.indexes:
        if writing and index.unique and index.name not in told and not set(index.keys) >= set(design.key_names):
            yield hazard("PD-H26", f"index {index.name} of {where}, beside trigger {writing[0]['name']}")


def _of_values(design: ShadowDesign, found: Carried, triggers: list[dict[str, Any]]) -> Iterator[Hazard]:
    """Name unique indexes for which a trigger gives new rows other values than clients do: ON CONFLICT looks for the clients'."""
    ahead = [row for row in _read(triggers) if row["row"] and " BEFORE INSERT" in row["definition"]]
    for index in found.indexes:
        text = " ".join((*(part.text for part in index.parts), index.predicate or ""))
        for name, column in successors(design).items():
            if _names(text, column.name) and (by := [row["name"] for row in ahead if _gives(row["source"], name)]):
                what = f"index {index.name} of {design.schema_name}.{design.table}"
                yield hazard("PD-H55", f"{what}, {name} of which trigger {by[0]} gives")


def _names(text: str, column: str) -> bool:
    """Tell whether a text over columns may name one."""
    return re.search(rf"(?<![\w$]){re.escape(column)}(?![\w$])", text) is not None


def _gives(source: str, column: str) -> bool:
    """Tell whether a trigger function's text gives a column of the new row a value."""
    name = rf'\bnew\s*\.\s*"?{re.escape(column)}"?\s*:?='
    return re.search(name, without_comments(source), re.IGNORECASE) is not None


def _read(triggers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the triggers that fire, and whose functions can be read."""
    return [row for row in triggers if row["fires"] and row["language"] not in {"c", "internal"}]


def _writes(source: str, table: str) -> bool:
    """Tell whether a function's text changes rows of a table, or may: by a statement that it puts together."""
    text = without_comments(source)
    name = rf'(only\s+)?("?[\w$]+"?\s*\.\s*)?"?{re.escape(table)}"?(?![\w$])'
    verbs = r"update|delete\s+from|merge\s+into" + (
        r"|insert\s+into" if re.search("conflict", text, re.IGNORECASE) else ""
    )
    return re.search(rf"\b({verbs})\s+{name}|\bexecute\b", text, re.IGNORECASE) is not None


def _asks_who(source: str) -> bool:
    """Tell whether a function's text names the current user."""
    return re.search(r"\b(current_user|current_role)\b", without_comments(source), re.IGNORECASE) is not None
