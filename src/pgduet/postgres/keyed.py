"""Reads what stands on a primary key: foreign keys, sequences, and what depends on the constraint itself."""

from typing import Any

from pgduet.operations.facts import InboundFacts, IndexFacts, KeyFacts, NumberingFacts
from pgduet.postgres.session import Connection
from pgduet.sql import block


async def key_facts(conn: Connection, oid: dict[str, Any]) -> KeyFacts | None:
    """Read a table's primary key, with an empty search_path; None where it has none."""

    async def rows(name: str) -> list[dict[str, Any]]:
        return await (await conn.execute(block("rekey", name), oid)).fetchall()

    found = await rows("key")
    if not found:
        return None
    others = tuple(found[0].pop("others"))
    return KeyFacts(
        index=IndexFacts(**found[0], unique=True, constraint=True, primary=True),
        others=others,
        inbound=tuple(InboundFacts(**row) for row in await rows("inbound")),
        numbering=tuple(NumberingFacts(**row) for row in await rows("numbering")),
    )
