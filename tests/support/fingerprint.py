"""What a history says that the workflow did: its commands in order, in words, with the acts that came in between.

The words leave out what differs from one recording to the next: ids, times, and how often a waiting loop went round. Two recordings
of one story by the same code read the same; where they do not, a change has changed what migrations do.
"""

from collections.abc import Callable, Iterator
from typing import Any

from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory

LONGEST_LOOP = 8
TIMES = 3
AGAIN = "   (and so on)"

Say = Callable[[Any, dict[int, str]], str]


def _timer(started: Any, _: dict[int, str]) -> str:
    seconds = started.start_to_fire_timeout.ToTimedelta().total_seconds()
    return f"timer of {seconds:.0f} s" if seconds >= 1 else "timer of less than 1 s"


def _attributes(upserted: Any, _: dict[int, str]) -> str:
    fields = upserted.search_attributes.indexed_fields
    return "search attributes " + " ".join(f"{name}={fields[name].data.decode()}" for name in sorted(fields))


def _memo(modified: Any, _: dict[int, str]) -> str:
    return "memo " + " ".join(sorted(modified.upserted_memo.fields))


COMMANDS: dict[str, Say] = {
    "activity_task_scheduled": lambda event, _: f"activity {event.activity_type.name}",
    "activity_task_cancel_requested": lambda event, known: f"cancel {known[event.scheduled_event_id]}",
    "timer_started": _timer,
    "timer_canceled": lambda event, known: f"cancel {known[event.started_event_id]}",
    "start_child_workflow_execution_initiated": lambda event, _: f"child {event.workflow_type.name}",
    "signal_external_workflow_execution_initiated": lambda event, _: f"send signal {event.signal_name}",
    "request_cancel_external_workflow_execution_initiated": lambda *_: "cancel a child",
    "upsert_workflow_search_attributes": _attributes,
    "workflow_properties_modified": _memo,
    "marker_recorded": lambda event, _: f"marker {event.marker_name}",
    "workflow_execution_update_accepted": lambda event, _: f"accept update {event.accepted_request.input.name}",
    "workflow_execution_update_completed": lambda *_: "answer update",
    "workflow_execution_continued_as_new": lambda *_: "continue as new",
    "workflow_execution_completed": lambda *_: "complete",
    "workflow_execution_failed": lambda event, _: f"fail: {event.failure.application_failure_info.type}",
    "workflow_execution_canceled": lambda *_: "end as cancelled",
}
CAME: dict[str, Say] = {
    "workflow_execution_signaled": lambda event, _: f"signal {event.signal_name}",
    "workflow_execution_cancel_requested": lambda *_: "cancellation",
    "activity_task_failed": lambda event, known: f"failure of {known[event.scheduled_event_id]}",
    "child_workflow_execution_failed": lambda *_: "failure of a child",
}


def fingerprint(history: WorkflowHistory) -> str:
    """Write a history's commands, one a line; `<-` marks what came from outside."""
    return "\n".join(_folded(list(_lines(history.events)))) + "\n"


def _lines(events: Any) -> Iterator[str]:
    known: dict[int, str] = {}
    for event in events:
        kind, attributes = _attributes_of(event)
        if kind in COMMANDS:
            known[event.event_id] = COMMANDS[kind](attributes, known)
            yield known[event.event_id]
        elif kind in CAME:
            yield f"<- {CAME[kind](attributes, known)}"


def _attributes_of(event: HistoryEvent) -> tuple[str, Any]:
    field = event.WhichOneof("attributes") or ""
    return field.removesuffix("_event_attributes"), getattr(event, field, None)


def _folded(lines: list[str]) -> list[str]:
    """Write a block that comes three times or more only once: how often a loop goes round is a matter of time."""
    told: list[str] = []
    at = 0
    while at < len(lines):
        block = next(
            (b for n in range(1, LONGEST_LOOP + 1) if _comes(b := lines[at : at + n], lines, at) >= TIMES), None
        )
        if block is None:
            told.append(lines[at])
            at += 1
        else:
            told += [*block, AGAIN]
            at += _comes(block, lines, at) * len(block)
    return told


def _comes(block: list[str], lines: list[str], at: int) -> int:
    """Count how often a block comes in a row."""
    times = 0
    while lines[at + times * len(block) :][: len(block)] == block:
        times += 1
    return times
