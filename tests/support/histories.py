"""Records the histories that `tests/replay` replays, anew, on real servers: `make histories`.

Each story (`stories.py`) is told to a migration of a database of its own, with fixed names and by a worker as any other. The
histories of its runs and of its Backfill children are kept as JSON, an event a line, and their commands in words beside them. The
worker's DSN has a password, so that a test can see that no history has it. Left out is what replay does not need: the server's
bookkeeping ids, and stack traces, which name paths of a machine. Limits: ids and times differ with each recording; the words do
not, unless what migrations do has changed.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter

from pgduet.local import EmbeddedPostgres, LocalTemporal
from pgduet.messages import TASK_QUEUE
from pgduet.telemetry.client import ClientTracing
from support.fingerprint import fingerprint
from support.harness import ROOT, Harness
from support.plans import create_reviews
from support.stories import ROWS, STORIES, Connection, Story

FOLDER = ROOT / "tests" / "replay"
PASSWORD = "never-to-be-seen-in-a-history"  # noqa: S105
ROLE = "recorder"
UNNEEDED = frozenset(
    {"taskId", "requestId", "workerVersion", "meteringMetadata", "stackTrace", "identity", "normalName"}
)


async def recorder(address: str, dsn: str, scratch: Path) -> Harness:
    """Open a harness with the names that recorded stories have; its worker's environment is the caller's to set."""
    client = await Client.connect(
        address, data_converter=pydantic_data_converter, identity=ROLE, interceptors=[ClientTracing()]
    )
    stage = Harness(client, address, dsn, scratch)
    stage.database, stage.queue = "shop", TASK_QUEUE
    return stage


async def record(story: Story, stage: Harness, conn: Connection) -> dict[str, WorkflowHistory]:
    """Tell a story; gives the histories of its last workflow's runs and of its children, by name."""
    await create_reviews(conn, ROWS)
    async with stage.worker():
        await story.tell(stage, conn)
    runs = await _runs(stage.client, stage.handle.id, stage.handle.first_execution_run_id)
    names = [story.name] if len(runs) == 1 else [f"{story.name}-{number + 1}" for number in range(len(runs))]
    found = dict(zip(names, runs, strict=True))
    children = [each for run in runs for each in _children(run)]
    for number, (child, run_id) in enumerate(children):
        [found[f"{story.name}-backfill-{number + 1}"]] = await _runs(stage.client, child, run_id)
    return found


async def _runs(client: Client, name: str, run_id: str | None) -> list[WorkflowHistory]:
    found = []
    while run_id:
        found.append(await client.get_workflow_handle(name, run_id=run_id).fetch_history())
        run_id = found[-1].events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return found


def _children(history: WorkflowHistory) -> list[tuple[str, str]]:
    return [
        (started.workflow_execution.workflow_id, started.workflow_execution.run_id)
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED
        for started in [event.child_workflow_execution_started_event_attributes]
    ]


def load(path: Path) -> WorkflowHistory:
    """Read a history."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return WorkflowHistory.from_json(kept["workflow_id"], {"events": kept["events"]})


def _clear(folder: Path) -> None:
    for old in [*folder.glob("histories/*.json"), *folder.glob("commands/*.txt")]:
        old.unlink()


def _needed(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _needed(value) for name, value in part.items() if name not in UNNEEDED}
    return [_needed(each) for each in part] if isinstance(part, list) else part


def keep(name: str, history: WorkflowHistory, folder: Path) -> None:
    """Write a history, and its commands in words."""
    events = ",\n".join(json.dumps(event, separators=(",", ":")) for event in _needed(history.to_json_dict()["events"]))
    text = f'{{"workflow_id": {json.dumps(history.workflow_id)}, "events": [\n{events}\n]}}\n'
    (folder / "histories" / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / "commands" / f"{name}.txt").write_text(fingerprint(history), encoding="utf-8")


def database_for(name: str, server: EmbeddedPostgres) -> str:
    """Make a database; gives the DSN that a recorded worker has, with a password."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return conninfo.make_conninfo(server.dsn(name), user=ROLE, password=PASSWORD)


async def record_all(folder: Path, wanted: list[str]) -> None:
    """Record the stories that are named, or all of them in place of what was kept."""
    if not wanted:
        _clear(folder)
    with EmbeddedPostgres() as postgres, tempfile.TemporaryDirectory() as scratch:
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            role = sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}")
            admin.execute(role.format(sql.Identifier(ROLE), sql.Literal(PASSWORD)))
        for story in STORIES:
            if wanted and story.name not in wanted:
                continue
            dsn = database_for(story.name, postgres)
            config = {"limit.historyCount.suggestContinueAsNew": story.suggested} if story.suggested else {}
            server = LocalTemporal(ui=False, dynamic_config=config)
            await asyncio.to_thread(server.start)
            try:
                stage = await recorder(server.address, dsn, Path(scratch))
                os.environ[stage.variable] = dsn
                async with await psycopg.AsyncConnection[Any].connect(dsn, autocommit=True) as conn:
                    for name, history in (await record(story, stage, conn)).items():
                        keep(name, history, folder)
                        print(f"{name}: {len(history.events)} events")  # noqa: T201
            finally:
                await asyncio.to_thread(server.stop)


if __name__ == "__main__":
    asyncio.run(record_all(FOLDER, sys.argv[1:]))
