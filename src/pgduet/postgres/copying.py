"""Fills a shadow: the copy by page ranges, the key, the journal emptied; and reads what hangs on an anchor (ADR 28)."""

from typing import Any, LiteralString

from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_final import Hung, HungConstraint, Numbering
from pgduet.postgres.session import Connection
from pgduet.sql import block


async def hung(conn: Connection, design: ShadowDesign) -> Hung:
    """Read what hangs on an anchor, as it is now."""
    named = {"schema": design.schema_name, "table": design.table}
    (about,) = await _rows(conn, "about", named)
    oid = {"oid": about["oid"]}
    found: dict[str, list[HungConstraint]] = {"inbound": [], "outbound": [], "check": []}
    for row in await _rows(conn, "constraints", oid):
        constraint = HungConstraint(
            schema_name=row["schema"],
            table=row["table"],
            name=row["name"],
            definition=row["definition"],
            valid=row["valid"],
        )
        found[row["kind"]].append(constraint)
    return Hung(
        owner=about["owner"],
        key=about["key"],
        comment=about["comment"],
        inbound=tuple(found["inbound"]),
        outbound=(*found["check"], *found["outbound"]),
        triggers=tuple((row["name"], row["definition"], row["enabled"]) for row in await _rows(conn, "triggers", oid)),
        numbering=tuple(
            Numbering(
                column=row["column"],
                identity=row["identity"].strip(),
                schema_name=row["schema"],
                name=row["name"],
                step=row["step"],
                cache=row["cache"],
            )
            for row in await _rows(conn, "sequence", oid)
        ),
    )


async def _rows(conn: Connection, name: LiteralString, values: dict[str, Any]) -> list[dict[str, Any]]:
    return await (await conn.execute(block("shadow_final", name), values)).fetchall()
