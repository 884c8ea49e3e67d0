"""What routers' reads took, and their shadow reads found, summed over all that reported: the evidence on the new read path.

Limit: a router's totals end with it; a service that is deployed anew begins anew, so compare two measurements by `Compared.since`
only where no router has gone in between.
"""

from typing import Any

from pgduet.compared import COUNTS, Compared
from pgduet.postgres.session import Connection
from pgduet.sketch import Sketch
from pgduet.sql import block


async def found(conn: Connection, migration: str) -> tuple[int, Compared]:
    """Give how many routers compare, and what came of it."""
    rows = await (await conn.execute(block("census", "shadow_reads"), {"migration": migration})).fetchall()
    total = Compared()
    for row in rows:
        total.add(Compared.read({**row, **{name: row[name] or 0 for name in COUNTS}}))
    return len(rows), total


async def answered(conn: Connection, migration: str) -> dict[str, Sketch]:
    """Give sketches of what reads took that callers waited for, old and new."""
    sketches = {"answered_old": Sketch(), "answered_new": Sketch()}
    for row in await (await conn.execute(block("census", "answered"), {"migration": migration})).fetchall():
        sketches[row["side"]].merge(Sketch.read({row["bucket"]: row["reads"]}))
    return sketches


async def mismatches(conn: Connection, migration: str, most: int = 20) -> list[dict[str, Any]]:
    """Give the newest mismatches; keys and answers are as the services show them."""
    values = {"migration": migration, "most": most}
    return await (await conn.execute(block("census", "shadow_mismatches"), values)).fetchall()
