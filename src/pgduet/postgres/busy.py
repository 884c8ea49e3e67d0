"""How many statements of clients are in progress on the server, asked the same way by whoever gives way to them."""

from psycopg.pq import TransactionStatus

from pgduet.postgres.session import Connection
from pgduet.sql import block


async def running(conn: Connection) -> int:
    """Count what clients run now; within a transaction PostgreSQL would show what it first saw."""
    if conn.info.transaction_status is not TransactionStatus.IDLE:
        await conn.execute("SELECT pg_stat_clear_snapshot()")
    found = await (await conn.execute(block("pressure", "running"), {})).fetchone()
    return int(found["clients"]) if found else 0
