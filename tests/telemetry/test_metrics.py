"""A worker's metrics during a real migration, scraped over HTTP and sent by OTLP, against what the database knows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from prometheus_client.parser import text_string_to_metric_families
from support.collector import Collector
from support.harness import Harness
from support.plans import create_reviews
from support.processes import until
from support.wire import scrape

from pgduet.local.ports import free_ports
from pgduet.phases import Phase
from pgduet.telemetry.metrics import INSTRUMENTS

Connection = psycopg.AsyncConnection[Any]
ROWS = 3_000


class Scraped:
    """What a worker's endpoint says of one migration, by the names that Prometheus has."""

    def __init__(self, port: int, database: str) -> None:
        self.port = port
        self.about = {"pgduet_database": database, "pgduet_migration": "review-stars"}

    def __call__(self, name: str, **labels: str) -> float | None:
        """Scrape now; None where the worker does not tell."""
        try:
            families = list(text_string_to_metric_families(scrape(self.port)))
        except OSError:
            return None
        wanted = (self.about | labels).items()
        found = [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and wanted <= sample.labels.items()
        ]
        return sum(found) if found else None


async def number(conn: Connection, query: str) -> int:
    row = await (await conn.execute(query.encode())).fetchone()
    assert row is not None
    return int(row[0])


@asynccontextmanager
async def held(dsn: str, statement: str) -> AsyncIterator[None]:
    """Hold a lock in a transaction of a client's."""
    async with await psycopg.AsyncConnection.connect(dsn) as client:
        await client.execute(statement.encode())
        yield


async def test_the_metrics_of_a_migration_are_what_its_database_knows(
    stage: Harness, conn: Connection, collector: Collector
) -> None:
    await create_reviews(conn, ROWS)
    port, temporal_port = free_ports(2)
    telling = collector.environment("metrics") | {
        "OTEL_METRICS_EXPORTER": "prometheus,otlp",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "PGDUET_TEMPORAL_METRICS": f"127.0.0.1:{temporal_port}",
    }
    told = Scraped(port, stage.database)
    plan = stage.plan(
        gates={"backfill": "manual", "shadow": "manual"},
        verify={"max_drift_rows": 2},
        shift={"steps": [1, 100], "bake_s": 600},
        backfill={
            "parallelism": 1,
            "probes": [{"name": "busy", "sql": "SELECT count(*) FROM public.busy", "max": 0}],
        },
    )
    await conn.execute("CREATE TABLE public.busy (what text)")
    with stage.worker_process(**telling):
        await _locks_are_counted(stage, plan, told, conn)
        await _backfill_is_counted(stage, conn, told)
        await _drift_is_shown(stage, conn, told)
        await stage.act("advance")
        await stage.waits("bake", Phase.SHIFT)
        await stage.act("route", read_percent=37)
        assert told("pgduet_read_percent") == 37
        # Another worker may have moved the reads: each activity tells what the database says.
        await conn.execute("UPDATE pgduet.route SET read_percent = 55")
        await stage.act("verify")
        assert told("pgduet_read_percent") == 55
        assert told("pgduet_migration_phase") == Phase.SHIFT.position
        assert told("pgduet_migration_authority") == 0
        assert told("pgduet_sync_mode") == 2
        assert (told("pgduet_migration_seen_seconds") or 0) > 1.7e9
        assert told("pgduet_activity_failures_total") is None
        await _the_same_by_otlp(stage, collector, told)
        assert "temporal_activity_execution_latency_seconds_bucket" in scrape(temporal_port)
        shown = scrape(port)
        missing = {each.prometheus for each in INSTRUMENTS if f"# TYPE {each.prometheus} " not in shown}
        assert missing == {"pgduet_activity_failures_total"}


async def _locks_are_counted(stage: Harness, plan: dict[str, Any], told: Scraped, conn: Connection) -> None:
    async with held(stage.dsn, "SELECT 1 FROM public.reviews LIMIT 1"):
        await stage.start(plan)
        await until(lambda: (told("pgduet_lock_waits_total") or 0) >= 2)
    await stage.waits("gate", Phase.DUAL_WRITE)
    await conn.execute("INSERT INTO public.busy VALUES ('very')")
    async with held(stage.dsn, "SELECT 1 FROM public.reviews WHERE id = 7 FOR UPDATE"):
        await stage.act("advance")
        await until(lambda: (told("pgduet_backfill_held_seconds_total", reason="probe") or 0) > 0.5)
        await conn.execute("TRUNCATE public.busy")
        await until(lambda: (told("pgduet_backfill_holds_total", reason="row_locks") or 0) >= 1)
        assert told("pgduet_migration_phase") == Phase.BACKFILL.position
    waits, locked = told("pgduet_lock_waits_total"), told("pgduet_lock_tries_count")
    assert waits is not None
    assert locked is not None
    assert told("pgduet_lock_tries_sum") == waits + locked, "each lock was got by one try, after those that gave way"
    assert (told("pgduet_lock_wait_duration_seconds_sum") or 0) > 2 * 0.05


async def _backfill_is_counted(stage: Harness, conn: Connection, told: Scraped) -> None:
    await stage.waits("gate", Phase.VERIFY)
    rows = await number(conn, "SELECT sum(rows_done) FROM pgduet.backfill_range")
    assert rows == ROWS
    assert told("pgduet_backfill_rows_total") == rows
    batches = await number(conn, "SELECT sum(batches) FROM pgduet.backfill_range")
    written = told("pgduet_backfill_batch_duration_seconds_count", outcome="written")
    assert written == batches
    assert (told("pgduet_backfill_batch_duration_seconds_count", outcome="row_locks") or 0) >= 1
    assert 0 < (told("pgduet_backfill_rate_per_second") or 0) <= ROWS


async def _drift_is_shown(stage: Harness, conn: Connection, told: Scraped) -> None:
    assert told("pgduet_parity_rows") == ROWS
    assert told("pgduet_drift_rows") == 0
    await conn.execute("ALTER TABLE public.reviews DISABLE TRIGGER ALL")
    await conn.execute("UPDATE public.reviews SET rating = '0' WHERE id <= 3")
    await conn.execute("ALTER TABLE public.reviews ENABLE TRIGGER ALL")
    before = told("pgduet_comparisons_total", outcome="same")
    assert before is not None
    await stage.schedule().trigger()
    await until(lambda: told("pgduet_drift_rows") == 3)
    assert told("pgduet_drift_limit") == 2
    assert told("pgduet_comparisons_total", outcome="drift") == 1
    assert (told("pgduet_parity_checked_seconds") or 0) > 1.7e9
    await stage.act("verify", repair=True)
    assert told("pgduet_drift_rows") == 0
    assert told("pgduet_comparisons_total", outcome="same") == before + 1


async def _the_same_by_otlp(stage: Harness, collector: Collector, told: Scraped) -> None:
    def sent(name: str) -> float | None:
        points = collector.metrics.get(name, [])
        return next((value for about, value in points if about["pgduet.database"] == stage.database), None)

    for name, scraped in (
        ("pgduet.read.percent", "pgduet_read_percent"),
        ("pgduet.backfill.rows", "pgduet_backfill_rows_total"),
        ("pgduet.lock.waits", "pgduet_lock_waits_total"),
        ("pgduet.lock.tries", "pgduet_lock_tries_count"),
    ):
        await collector.until(lambda name=name, scraped=scraped: sent(name) == told(scraped))
