"""Law 7, and rows' values: whatever a worker and a command tell anybody is searched for what must not be in it."""

import asyncio
from typing import Any

import psycopg
from psycopg import sql
from support.collector import Collector
from support.harness import Harness
from support.wire import headers, scrape
from temporalio.client import WorkflowUpdateStage

from pgduet.local.ports import free_ports
from pgduet.phases import Phase

Connection = psycopg.AsyncConnection[Any]

USER, PASSWORD, HOST = "hiddenowner", "Sesame-4711", "db-host.invalid"
VALUE, UNQUOTED, KEY, NOTE = "Zebra-7431", "Okapi-8832", "Letter-5520", "Private-9914"
NEVER = (USER, PASSWORD, HOST, VALUE, UNQUOTED, KEY, NOTE)

TABLE = """
CREATE TABLE public.letters (code text PRIMARY KEY, rating text NOT NULL, note text);
CREATE FUNCTION public.stars(rating text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    IF rating LIKE 'Okapi%' THEN RAISE EXCEPTION 'cannot map % at all', rating; END IF;
    RETURN rating::int;
END $$;
INSERT INTO public.letters SELECT 'Letter-5520-' || i, (i % 5 + 1)::text, 'Private-9914' FROM generate_series(1, 500) i;
UPDATE public.letters SET rating = 'Zebra-7431' WHERE code = 'Letter-5520-7';
UPDATE public.letters SET rating = 'Okapi-8832' WHERE code = 'Letter-5520-8';
"""

PLAN = {
    "replace_columns": {
        "table": "public.letters",
        "columns": [{"name": "stars", "type": "int", "nullable": False, "up": "public.stars(rating)"}],
        "replaces": ["rating"],
        "down": {"rating": "stars::text"},
    }
}


async def hidden_database(conn: Connection, dsn: str) -> str:
    """Give the table to a role with a password; gives the DSN that a worker has."""
    there = await (await conn.execute("SELECT FROM pg_roles WHERE rolname = %s", [USER])).fetchone()
    if there is None:
        await conn.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USER), sql.Literal(PASSWORD))
        )
    await conn.execute(TABLE)
    await conn.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO hiddenowner").format(sql.Identifier(conn.info.dbname)))
    await conn.execute("GRANT CREATE ON SCHEMA public TO hiddenowner; ALTER TABLE public.letters OWNER TO hiddenowner")
    await conn.execute("GRANT SET ON PARAMETER session_replication_role TO hiddenowner")
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    return psycopg.conninfo.make_conninfo(
        user=USER, password=PASSWORD, host=HOST, hostaddr="127.0.0.1", port=given["port"], dbname=given["dbname"]
    )


async def _cut_off_while_it_waits_for_a_lock(stage: Harness, conn: Connection, telling: dict[str, str]) -> None:
    """Start while a client holds the table, and end the worker's session in its transaction: psycopg has much to say."""
    async with await psycopg.AsyncConnection.connect(stage.dsn) as client:
        await client.execute("SELECT FROM public.letters LIMIT 1")
        await stage.start_by_command(stage.plan(PLAN, gates={"shadow": "manual"}), **telling)
        ended = 0
        async with asyncio.timeout(20):
            while ended < 3:
                found = await conn.execute(
                    """
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name LIKE 'pgduet/expand/%' AND wait_event_type = 'Lock'
                      AND datname = current_database()
                    """
                )
                ended += found.rowcount
                await asyncio.sleep(0.01)


async def _reach_nothing(stage: Harness, collector: Collector, conn: Connection) -> None:
    """Have a worker fail to connect: nobody listens there; then the role may not log in."""
    nowhere = await stage.client.start_workflow(
        "Setup", {"database": "nowhere"}, id=f"setup/nowhere/{stage.queue}", task_queue=stage.queue
    )
    await collector.until(lambda: any(span.failed for span in collector.named("RunActivity:setup")))
    await nowhere.terminate("seen")
    await conn.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(USER)))
    compare = await stage.handle.start_update("pause", {"actor": "tester"}, wait_for_stage=WorkflowUpdateStage.ACCEPTED)
    await collector.until(lambda: any(span.failed for span in collector.named("RunActivity:set_controls")))
    await conn.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(USER)))
    await compare.result()
    await stage.act("resume")


async def test_no_secret_and_no_row_s_value_is_in_anything_that_is_told(
    stage: Harness, conn: Connection, collector: Collector
) -> None:
    hidden = await hidden_database(conn, stage.dsn)
    (port,) = free_ports(1)
    telling = collector.environment("traces", "logs", "metrics")
    of_worker = telling | {
        "OTEL_METRICS_EXPORTER": "otlp,prometheus",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "PGDUET_LOG": "DEBUG",
        stage.variable: hidden,
        "PGDUET_DATABASE_NOWHERE": f"postgresql://{USER}:{PASSWORD}@{HOST}/nothing?hostaddr=127.0.0.1&port=1",
    }
    with stage.worker_process(**of_worker) as worker:
        await _cut_off_while_it_waits_for_a_lock(stage, conn, telling)
        status = await stage.waits("error", Phase.BACKFILL)
        assert KEY in (status.failure or ""), "people must see which rows"
        await _reach_nothing(stage, collector, conn)
        await conn.execute("UPDATE public.letters SET rating = '3' WHERE rating !~ '^[0-9]'")
        await stage.act("advance")
        await stage.waits("gate", Phase.VERIFY)
        await stage.act("abort")
        await stage.until(Phase.ROLLED_BACK)
        await collector.until(lambda: collector.named("RunActivity:undo_expand"))
        await collector.until(lambda: any("rolled_back" in line for line, _, _ in collector.lines))
        scraped = scrape(port).encode()
        travelled = b"".join(payload for _, payload in await headers(stage.handle))
        told = {
            "exported": bytes(collector.raw),
            "log": worker.log.read_bytes(),
            "scraped": scraped,
            "headers": travelled,
        }
    assert all(told.values()), "there is something to search"
    found = [(where, word) for where, text in told.items() for word in NEVER if word.lower().encode() in text.lower()]
    assert found == []
    failed = {span.name: span.attributes for span in collector.spans if span.failed}
    assert failed["RunActivity:backfill_outcome"]["pgduet.error.code"] == "PD-2002"
    assert failed['UPDATE "public"."letters"']["db.response.status_code"] in {"22P02", "P0001"}
    assert "public.stars" in collector.raw.decode(errors="replace"), "what the plan says may be shown"
