"""What the demo proves by reading the database itself, beside the ledger: rows counted, nothing left over, the audit log whole."""

from dataclasses import dataclass

from pgduet.audit import verify
from pgduet.local.ledger import connect

_LEFT = r"""
SELECT 'column ' || attname FROM pg_attribute
 WHERE attrelid = 'public.flights'::regclass AND NOT attisdropped AND attname LIKE '\_pgduet%'
UNION ALL
SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = 'public.flights'::regclass AND NOT tgisinternal
UNION ALL
SELECT 'constraint ' || conname FROM pg_constraint
 WHERE conrelid = 'public.flights'::regclass AND conname LIKE '\_pgduet%'
UNION ALL
SELECT 'view ' || relname FROM pg_class WHERE relnamespace = to_regnamespace('pgduet_views')
"""


@dataclass(frozen=True, slots=True)
class AuditProof:
    """The audit log's entries, and what is wrong with them."""

    entries: int
    wrong: tuple[str, ...]


async def count_rows(dsn: str) -> int:
    """Count the flights."""
    async with await connect(dsn) as conn:
        row = await (await conn.execute("SELECT count(*) FROM public.flights")).fetchone()
    return int(row[0]) if row else 0


async def leftovers(dsn: str) -> list[str]:
    """Name what a migration that has ended left on the table: it should be nothing."""
    async with await connect(dsn) as conn:
        return [name for (name,) in await (await conn.execute(_LEFT)).fetchall()]


async def columns(dsn: str) -> list[str]:
    """Name the table's columns."""
    async with await connect(dsn) as conn:
        cursor = await conn.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'public.flights'::regclass AND attnum > 0"
            " AND NOT attisdropped ORDER BY attnum"
        )
        return [name for (name,) in await cursor.fetchall()]


async def audit(dsn: str, head: str | None) -> AuditProof:
    """Verify the audit log against itself and against the head that the workflow kept (`number:hash`)."""
    kept = None
    if head:
        number, _, digest = head.partition(":")
        kept = (int(number), digest)
    async with await connect(dsn) as conn:
        found = await verify(conn, kept)
    return AuditProof(found.entries, tuple(f"entry {problem.seq}: {problem.what}" for problem in found.problems))
