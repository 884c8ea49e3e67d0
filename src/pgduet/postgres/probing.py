"""Runs a probe write in a transaction that is rolled back, with the user's own triggers muted where that is allowed."""

from collections.abc import Awaitable, Callable

from psycopg import errors

from pgduet.errors import GateRefused
from pgduet.operations.statement import Query
from pgduet.postgres.session import Connection, rights


class _Enough(Exception):
    pass


async def probe(conn: Connection, query: Query | None) -> str:
    """Send one row through the sync; tells what was seen.

    Raises:
        GateRefused: the row did not come out as it should.
    """
    if query is None:
        return "nothing to map"
    return await probed(conn, lambda: _asked(conn, query))


async def _asked(conn: Connection, query: Query) -> list[bool]:
    return [row["good"] for row in await (await conn.execute(query)).fetchall()]


async def probed(conn: Connection, ask: Callable[[], Awaitable[list[bool]]]) -> str:
    """Write and look in a transaction that is rolled back; `ask` tells for each row whether it came out as it should.

    Raises:
        GateRefused: one did not.
    """
    mute = (await rights(conn)).mute_triggers
    seen: list[bool] = []
    try:
        async with conn.transaction():
            await conn.execute("SET LOCAL lock_timeout = '50ms'")
            if mute:
                # Our own triggers are ENABLE ALWAYS: they fire all the same.
                await conn.execute("SET LOCAL session_replication_role = replica")
            seen = await ask()
            raise _Enough
    except _Enough:
        pass
    except errors.LockNotAvailable:
        return "no row was free"
    except (errors.IntegrityError, errors.DataError) as error:
        return f"not proved: the probe's row breaks a rule of the table's own ({error.sqlstate})"
    if not seen:
        return "no row to probe"
    if not all(seen):
        raise GateRefused("a probe write did not reach the other representation", hint="See `pgduet verify`.")
    return "one row mapped and rolled back"
