"""What somebody with a superuser's rights can do to an audit log: edit, cut, move, and write it anew with sound hashes."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from pgduet import audit
from pgduet.audit import canonical
from pgduet.audit.exported import FIELDS

Connection = psycopg.AsyncConnection[Any]

_TRIGGERS: list[tuple[LiteralString, LiteralString]] = [
    ("audit", "audit_refuse"),
    ("audit_head", "audit_head_refuse"),
    ("audit_head", "audit_head_moves"),
]
_INSERT = """
INSERT INTO pgduet.audit (seq, at, actor, action, migration, affected, reason, evidence, prev_hash, hash)
VALUES (%(seq)s, %(at)s::timestamptz, %(actor)s, %(action)s, %(migration)s, %(affected)s::jsonb, %(reason)s,
        %(evidence)s::jsonb, decode(%(prev_hash)s, 'hex'), decode(%(hash)s, 'hex'))
"""


@asynccontextmanager
async def unguarded(conn: Connection) -> AsyncIterator[None]:
    """Put the triggers out of the way, and back again as if nothing had been."""
    async with conn.transaction():
        for word in ("DISABLE", "ENABLE ALWAYS"):
            for table, name in _TRIGGERS:
                await conn.execute(
                    sql.SQL("ALTER TABLE pgduet.{} {} TRIGGER {}").format(
                        sql.Identifier(table), sql.SQL(word), sql.Identifier(name)
                    )
                )
            if word == "DISABLE":
                yield


async def tamper(conn: Connection, *statements: LiteralString) -> None:
    """Run statements on the log past its triggers."""
    async with unguarded(conn):
        for statement in statements:
            await conn.execute(statement)


async def write_anew(conn: Connection, seq: int, change: Mapping[str, Any] | None) -> None:
    """Change an entry (None: leave it out) and write all that follow anew, numbers, hashes and head row included."""
    entries = [entry async for entry in audit.export(conn)]
    kept, rest = entries[: seq - 1], entries[seq - 1 :]
    rest = rest[1:] if change is None else [rest[0] | dict(change), *rest[1:]]
    last = kept[-1]["hash"] if kept else audit.ZERO_HASH
    async with unguarded(conn):
        await conn.execute("DELETE FROM pgduet.audit WHERE seq >= %s", [seq])
        for number, entry in enumerate(rest, seq):
            fields = entry | {"seq": number, "prev_hash": last}
            last = canonical.digest(fields)
            row = {name: fields[name] for name in FIELDS} | {"hash": last}
            await conn.execute(_INSERT, row | {n: canonical.dumps(row[n]) for n in ("affected", "evidence")})
        head = [seq - 1 + len(rest), last]
        await conn.execute("UPDATE pgduet.audit_head SET seq = %s, hash = decode(%s, 'hex')", head)
