"""What a table that is to become a partition has, and whether that can be: read from PostgreSQL (ADR 31)."""

from typing import Any, LiteralString

from psycopg import sql

from pgduet.operations.attach import Carried, Changed, Grant, Sequence, StatisticsObject
from pgduet.operations.attach_design import AttachDesign
from pgduet.operations.shadow_final import HungConstraint
from pgduet.operations.statement import identifiers, trusted
from pgduet.postgres.session import Connection
from pgduet.sql import block


async def in_the_way(conn: Connection, design: AttachDesign) -> tuple[str, ...]:
    """Say what a parent above the table, or its partitions, could not have; nothing where the attach can be."""
    async with conn.transaction(force_rollback=True):
        await conn.execute("SET LOCAL search_path = pg_catalog")
        oid = (await _about(conn, design))["oid"]
        parent = design.parent.as_string(None)
        rows = await _rows(conn, "attach", "in_the_way", {"oid": oid, "spread": [design.spread], "parent": parent})
    return tuple(f"{row['why']} ({row['what']})" for row in rows)


async def carried(conn: Connection, design: AttachDesign) -> Carried:
    """Read what the parent is to be given, as it is now; with an empty search_path, so that every name has its schema."""
    async with conn.transaction():
        await conn.execute("SET LOCAL search_path = pg_catalog")
        about = await _about(conn, design)
        oid = {"oid": about["oid"]}
        constraints = await _rows(conn, "shadow_final", "constraints", oid)
        triggers = await _rows(conn, "shadow_final", "triggers", oid)
        indexes = await _rows(conn, "attach", "indexes", oid)
        (storage,) = await _rows(conn, "attach", "storage", oid)
        (replicates,) = await _rows(conn, "attach", "replicates", oid)
        return Carried(
            owner=about["owner"],
            key=about["key"],
            comment=about["comment"],
            foreign=tuple(
                HungConstraint(
                    schema_name=row["schema"],
                    table=row["table"],
                    name=row["name"],
                    definition=row["definition"],
                    valid=row["valid"],
                )
                for row in constraints
                if row["kind"] == "outbound"
            ),
            targets=tuple((row["schema"], row["table"]) for row in await _rows(conn, "attach", "foreign_targets", oid)),
            triggers=tuple((row["name"], row["definition"], row["enabled"]) for row in triggers),
            indexes=tuple((row["name"], row["definition"]) for row in indexes),
            numbering=await _numbering(conn, oid),
            replicates=replicates["identity"],
            grants=await _grants(conn, oid),
            statistics=tuple(StatisticsObject(**row) for row in await _rows(conn, "attach", "statistics_objects", oid)),
            **storage,
            **await _since(conn, design, oid),
        )


async def _since(conn: Connection, design: AttachDesign, oid: dict[str, Any]) -> dict[str, Any]:
    """Read what has come to the table since it has a parent; nothing while it has none."""
    found = await _rows(conn, "shadow_final", "about", {"schema": design.schema_name, "table": design.parent_name})
    if not found:
        return {}
    parent = {"oid": found[0]["oid"]}
    changed = await _rows(conn, "attach", "changed", {**oid, "parent": parent["oid"]})
    return {
        "parent_grants": await _grants(conn, parent),
        "changed": tuple(Changed(**row) for row in changed),
        "checks": tuple((row["name"], row["definition"]) for row in await _rows(conn, "attach", "checks", oid)),
    }


async def _grants(conn: Connection, oid: dict[str, Any]) -> tuple[Grant, ...]:
    return tuple(Grant(**row) for row in await _rows(conn, "attach", "grants", oid))


async def _numbering(conn: Connection, oid: dict[str, Any]) -> tuple[Sequence, ...]:
    found = await _rows(conn, "attach", "numbering", oid)
    return tuple(Sequence(**{**row, "identity": row["identity"].strip()}) for row in found)


async def condition(conn: Connection, design: AttachDesign) -> str:
    """Let PostgreSQL say what a row of the first partition has to keep, and whether all bounds fit together."""
    by = sql.SQL("RANGE ({})").format(sql.Identifier(design.spread))
    async with conn.transaction(force_rollback=True):
        await conn.execute(block("attach", "probe_table").format(relation=design.relation, by=by))
        for number, each in enumerate((design.first, *design.later)):
            name = sql.Identifier("pg_temp", f"pgduet_part_{number}")
            query = block("attach", "probe_partition").format(partition=name, bound=trusted(each.bound))
            await conn.execute(query)
        probed = block("attach", "probed").format(partition=sql.Literal("pg_temp.pgduet_part_0"))
        row = await (await conn.execute(probed)).fetchone()
    return str(row["condition"]) if row else ""


async def outside(conn: Connection, design: AttachDesign, condition: str) -> list[dict[str, Any]]:
    """Give keys of a few rows that lie beyond the first partition's bound; where there is none, the whole table is read."""
    query = block("attach", "outside").format(
        relation=design.relation, condition=trusted(condition), keys=identifiers(design.named_by)
    )
    return await (await conn.execute(query)).fetchall()


def shown(found: list[dict[str, Any]]) -> str:
    """Write keys of rows for people."""
    keys = [", ".join(f"{name} {value}" for name, value in row.items()) for row in found]
    return " and ".join(keys)


async def is_under(conn: Connection, design: AttachDesign) -> bool:
    """Tell whether the table is under the parent."""
    names = {"relation": design.label, "parent": design.parent.as_string(None)}
    return bool((await _rows(conn, "attach", "under", names))[0]["under"])


async def is_bound(conn: Connection, design: AttachDesign) -> bool | None:
    """Tell whether the table holds its partition's bound: nothing where there is no check, False where rows are unread."""
    found = await _rows(conn, "attach", "is_bound", {"relation": design.label, "name": design.bound_check})
    return bool(found[0]["valid"]) if found else None


async def taken(conn: Connection, design: AttachDesign) -> list[str]:
    """Give the names that contract is to give, and something has."""
    asked = {"schema": design.schema_name, "names": [each.name for each in (design.first, *design.later)]}
    return [row["name"] for row in await _rows(conn, "attach", "taken", asked)]


async def numbers_now(conn: Connection, design: AttachDesign) -> tuple[Sequence, ...]:
    """Read what numbers the table's columns."""
    return await _numbering(conn, {"oid": (await _about(conn, design))["oid"]})


async def _about(conn: Connection, design: AttachDesign) -> dict[str, Any]:
    (row,) = await _rows(conn, "shadow_final", "about", {"schema": design.schema_name, "table": design.table})
    return row


async def _rows(
    conn: Connection, file: LiteralString, name: LiteralString, values: dict[str, Any]
) -> list[dict[str, Any]]:
    return await (await conn.execute(block(file, name), values)).fetchall()
