"""Brings archived values back when a plan starts again: in small batches, and never over a value that somebody wrote since."""

from pgduet.operations import rows
from pgduet.postgres import store
from pgduet.postgres.muting import mutes
from pgduet.postgres.polite import write_politely
from pgduet.postgres.session import Connection
from pgduet.sql import block

BATCH = 50


async def restore_all(conn: Connection, migration: store.Migration) -> int:
    """Restore every archived value of a migration that still applies; returns how many came back."""
    restored = 0
    for table in migration.design.synced:
        for mapping in (mapping for mapping in table.mappings if mapping.columns):
            after = 0
            while ids := await _next(conn, migration.name, table.label, mapping.position, after):
                query = rows.restore(migration.design, table, mapping, ids)
                mute = await mutes(conn, table.label, migration.policy.user_triggers)
                restored += await write_politely(conn, query, mute=mute)
                after = ids[-1]
    return restored


async def _next(conn: Connection, name: str, relation: str, mapping: int, after: int) -> list[int]:
    values = {"migration": name, "relation": relation, "mapping": mapping, "after": after, "limit": BATCH}
    cursor = await conn.execute(block("rows", "archived_ids"), values)
    return [row["id"] for row in await cursor.fetchall()]
