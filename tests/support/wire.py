"""What goes over the wire: Temporal's headers as a history keeps them, and a worker's page of metrics."""

import urllib.request
from collections.abc import Iterator
from typing import Any

from temporalio.client import WorkflowHandle, WorkflowHistory


def scrape(port: int) -> str:
    """Fetch what a worker on this machine shows to Prometheus."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read(), "utf-8")


async def headers(handle: WorkflowHandle[Any, Any]) -> list[tuple[str, bytes]]:
    """Give every header of a run and of its Backfill children so far: names and payloads."""
    history: WorkflowHistory = await handle.fetch_history()
    return [header for event in history.events for header in _within(event)]


def _within(message: Any) -> Iterator[tuple[str, bytes]]:
    for field, value in message.ListFields():
        if field.name == "header":
            yield from ((name, payload.data) for name, payload in value.fields.items())
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in [value] if hasattr(value, "ListFields") else value:
                yield from _within(each)
