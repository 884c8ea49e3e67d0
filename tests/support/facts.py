"""What is known of a migration for which a test waited in vain: what fails once in a hundred runs need not fail twice.

The status where a worker answers, what Temporal has pending with the last failure of each, the newest events, who is in the
database and who is in whose way, and the last lines of worker processes. None of it changes anything. Limit: what the workers
of the test's own process log is pytest's to show.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from temporalio.client import WorkflowHandle

from pgduet.messages import Status

EVENTS = 20
LINES = 10
LIMIT_S = 10.0
SESSIONS = """
SELECT format('%s %s %s %s:%s for %s s, behind %s: %s', pid, application_name, state, wait_event_type, wait_event,
              round(extract(epoch FROM clock_timestamp() - coalesce(xact_start, state_change))::numeric, 1),
              pg_blocking_pids(pid), left(regexp_replace(query, '\\s+', ' ', 'g'), 200))
  FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY pid
"""

_UNTOLD = frozenset(
    {"payloads", "header", "taskId", "eventId", "eventTime", "retryPolicy", "requestId", "version", "meteringMetadata"}
)

Handle = WorkflowHandle[Any, Any]


async def facts(handle: Handle | None, dsn: str, scratch: Path) -> str:
    """Write down what is known now."""
    parts: dict[str, Awaitable[list[str]]] = {"in the database": _sessions(dsn)}
    if handle:
        parts |= {"status": _status(handle), "pending": _pending(handle), "newest events": _events(handle)}
    told = [f"-- {name}\n" + "\n".join(await _or_why_not(part)) for name, part in parts.items()]
    return "\n".join([*told, *_last_words(scratch)])


def _last_words(scratch: Path) -> list[str]:
    logs = sorted(scratch.glob("worker-*.log"), key=lambda log: log.stat().st_mtime)
    return [f"-- {log.name}\n" + "\n".join(log.read_text().splitlines()[-LINES:]) for log in logs]


async def _or_why_not(part: Awaitable[list[str]]) -> list[str]:
    """Give a part; whatever keeps it from being known is no failure of the test's own."""
    try:
        return await asyncio.wait_for(part, LIMIT_S)
    except Exception as error:  # noqa: BLE001  (the test has failed already; this is told beside it)
        return [f"not known: {type(error).__name__}: {error}"]


async def _status(handle: Handle) -> list[str]:
    status = await handle.query("status", result_type=Status)
    return [status.model_dump_json(indent=1, exclude_defaults=True)]


async def _pending(handle: Handle) -> list[str]:
    raw = (await handle.describe()).raw_description
    return [
        *(f"workflow task: {_short(raw.pending_workflow_task)}" for _ in range(raw.HasField("pending_workflow_task"))),
        *(f"activity: {_short(each)}" for each in raw.pending_activities),
        *(f"child: {_short(each)}" for each in raw.pending_children),
    ]


async def _events(handle: Handle) -> list[str]:
    history = await handle.fetch_history()
    return [
        f"{event.event_id} {event.event_time.ToDatetime():%H:%M:%S.%f} {_short(event)}" for event in history.events
    ][-EVENTS:]


async def _sessions(dsn: str) -> list[str]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        return [str(row[0]) async for row in await conn.execute(SESSIONS)]


def _short(message: Message) -> str:
    """Write a message without its payloads."""
    return " ".join(_words(MessageToDict(message)))


def _words(part: object, name: str = "") -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key not in _UNTOLD:
                yield from _words(value, key)
    elif isinstance(part, list):
        for value in part:
            yield from _words(value, name)
    else:
        yield f"{name}={str(part)[:200]}"
