"""Our own tables made and made again beside clients that write to them: routers report, and services write in pairs."""

import asyncio
from typing import Any

import psycopg
from psycopg.rows import dict_row
from support.worlds import on_each_version

from pgduet.postgres import store
from pgduet.postgres.session import Connection
from pgduet.sql import load

PATIENCE_S = 30.0

BESIDE = """
BEGIN;
DO $$
DECLARE
    ours regclass;
BEGIN
    FOR ours IN
        SELECT oid FROM pg_class WHERE relnamespace IN ('pgduet'::regnamespace, 'pgduet_archive'::regnamespace) AND relkind = 'r'
    LOOP
        EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE', ours);
    END LOOP;
END $$;
"""
"""What clients hold who have written to each of our tables, and are not done."""

HELD = """
SELECT c.relname AS relation, l.mode
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
 WHERE l.pid = pg_backend_pid() AND l.mode <> 'AccessShareLock'
   AND c.relnamespace IN ('pgduet'::regnamespace, 'pgduet_views'::regnamespace, 'pgduet_archive'::regnamespace)
"""

WRITES = "LOCK TABLE pgduet.client IN ROW EXCLUSIVE MODE"
WAITS = "SELECT FROM pg_locks WHERE pid = %s AND relation = 'pgduet.client'::regclass AND NOT granted"

DESCRIBED = """
SELECT c.oid::regclass::text AS name, c.relacl::text AS rights, array_agg(i.indexdef ORDER BY i.indexdef) AS indexes,
       (SELECT array_agg(pg_get_triggerdef(t.oid) || t.tgenabled::text ORDER BY t.tgname) FROM pg_trigger t
         WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) AS triggers,
       (SELECT array_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull) ORDER BY a.attname)
          FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
  FROM pg_class c LEFT JOIN pg_indexes i ON i.schemaname = c.relnamespace::regnamespace::text AND i.tablename = c.relname
 WHERE c.relnamespace IN ('pgduet'::regnamespace, 'pgduet_archive'::regnamespace) AND c.relkind = 'r'
 GROUP BY c.oid ORDER BY 1
"""

EARLIER = """
DROP TABLE pgduet.emptied;
ALTER TABLE pgduet.comparison DROP COLUMN request, DROP COLUMN before;
DROP INDEX pgduet.suspect_open, pgduet_archive.value_of;
REVOKE SELECT ON pgduet.route FROM PUBLIC;
GRANT SELECT ON pgduet.audit TO PUBLIC;
DROP TRIGGER audit_refuse ON pgduet.audit;
ALTER TABLE pgduet.audit_head ENABLE TRIGGER audit_head_moves;
"""
"""A database in which a part of each kind is not as it is made now."""


@on_each_version
async def test_what_is_made_again_locks_no_table_of_ours(dsn: str, conn: Connection) -> None:
    conn.row_factory = dict_row  # type: ignore[assignment]
    await store.set_up(conn)
    with psycopg.connect(dsn) as clients:
        clients.execute(BESIDE.encode())
        async with conn.transaction():
            await conn.execute("SET LOCAL lock_timeout = '50ms'")
            for statements in (load("metadata")["create_metadata"], load("audit")["create_audit"]):
                await conn.execute(statements.encode())
                assert await rows(conn, HELD) == []


async def test_an_upgrade_locks_only_what_it_changes(dsn: str, conn: Connection) -> None:
    conn.row_factory = dict_row  # type: ignore[assignment]
    await store.set_up(conn)
    await conn.execute("DROP TABLE pgduet.emptied")
    with psycopg.connect(dsn) as clients:
        clients.execute(BESIDE.encode())
        async with asyncio.timeout(PATIENCE_S):
            assert [await store.set_up(conn), await store.set_up(conn)] == [True, False]


async def test_nobody_queues_behind_an_upgrade_that_waits_for_a_client(dsn: str, conn: Connection) -> None:
    conn.row_factory = dict_row  # type: ignore[assignment]
    await store.set_up(conn)
    await conn.execute("DROP TABLE pgduet.paired_write; ALTER TABLE pgduet.client DROP COLUMN latency")
    async with (
        await psycopg.AsyncConnection.connect(dsn) as first,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as others,
    ):
        await first.execute(WRITES)
        upgrade = asyncio.create_task(store.set_up(conn))
        while await (await others.execute(WAITS, [conn.info.backend_pid])).fetchone() is None:
            assert not upgrade.done()
        async with others.transaction():
            await others.execute("SET LOCAL lock_timeout = '1s'")
            await others.execute(WRITES)
        await first.commit()
        async with asyncio.timeout(PATIENCE_S):
            assert await upgrade
    assert await rows(conn, "SELECT latency FROM pgduet.client") == []


async def test_what_is_missing_or_otherwise_is_made_as_in_a_new_database(conn: Connection) -> None:
    conn.row_factory = dict_row  # type: ignore[assignment]
    await store.set_up(conn)
    new = await rows(conn, DESCRIBED)
    await conn.execute(EARLIER.encode())
    assert await rows(conn, DESCRIBED) != new
    assert [await store.set_up(conn), await store.set_up(conn)] == [True, False]
    assert await rows(conn, DESCRIBED) == new


async def rows(conn: Connection, query: str) -> list[dict[str, Any]]:
    return await (await conn.execute(query.encode())).fetchall()
