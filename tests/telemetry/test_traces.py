from typing import Any
import psycopg
from support.collector import Collector
from support.harness import Harness
from support.plans import create_reviews
from pgduet.phases import Phase

Connection = psycopg.AsyncConnection[Any]


async def test_one(stage: Harness, conn: Connection, collector: Collector) -> None:
    await create_reviews(conn, 2000)
    env = collector.environment("traces", "logs", "metrics")
    with stage.worker_process(**env) as w:
        await stage.start_by_command(stage.plan(), **env)
        await stage.until(Phase.SOAK)
        import asyncio

        await asyncio.sleep(1)
        log = w.log.read_text()
    root = collector.named("StartWorkflow")[0]
    print({s.name for s in collector.spans if s.service == "pgduet-cli"})
    print(collector.tree(root.trace_id))
    print(log)
    for l in collector.lines:
        print(l)
    print(len(collector.spans))
    assert 0
