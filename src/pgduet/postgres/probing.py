"""Runs a probe write in a transaction that is rolled back, with the user's own triggers muted where that is allowed."""

from collections.abc import Awaitable, Callable

from psycopg import errors

from pgduet.errors import GateRefused
from pgduet.operations.statement import Query
from pgduet.postgres.session import Connection, rights

NOTHING, NO_ROW, NO_FREE_ROW = "nothing to map", "no row to probe", "no row was free"
MAPPED = "one row mapped and rolled back"


class _Enough(Exception):
    pass


async def probe(conn: Connection, query: Query | None) -> str:
    """Send one row through the sync; tells what was seen.

    Raises:
        GateRefused: the row did not come out as it should.
    """
    if query is None:
        return NOTHING
    return await probed(conn, lambda: _asked(conn, query))


async def _asked(conn: Connection, query: Query) -> list[bool]:
    return [row["good"] for row in await (await conn.execute(query)).fetchall()]


async def probed(conn: Connection, ask: Callable[[], Awaitable[list[bool]]]) -> str:
    """Write and look in a transaction that is rolled back; `ask` tells for each row whether it came out as it should.

    Raises:
        GateRefused: one did not.
    """

    async def asked() -> tuple[str, bool]:
        seen = await ask()
        return (MAPPED, all(seen)) if seen else (NO_ROW, True)

    return await rolled_back(conn, asked)


async def rolled_back(conn: Connection, one_row: Callable[[], Awaitable[tuple[str, bool]]]) -> str:
    """Run a probe in a transaction that is rolled back; `one_row` tells what it did, and whether it came out as it should.

    Raises:
        GateRefused: it did not.
    """
    mute = (await rights(conn)).mute_triggers
    told, good = "", False
    try:
        async with conn.transaction():
            await conn.execute("SET LOCAL lock_timeout = '50ms'")
            if mute:
                # Our own triggers are ENABLE ALWAYS: they fire all the same.
                await conn.execute("SET LOCAL session_replication_role = replica")
            told, good = await one_row()
            raise _Enough
    except _Enough:
        pass
    except errors.LockNotAvailable:
        return NO_FREE_ROW
    except (errors.IntegrityError, errors.DataError) as error:
        return f"not proved: the probe's row breaks a rule of the table's own ({error.sqlstate})"
    if not good:
        raise GateRefused("a probe write did not reach the other representation", hint="See `pgduet verify`.")
    return told
