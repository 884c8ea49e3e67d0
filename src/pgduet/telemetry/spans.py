"""Spans of the engine: what is traced, and how much of it.

Mechanism: a budget for each activity and each batch bounds their statements, and of long repetitions (the batches of a slice,
the tries of an activity) the first ones and then each power of two are traced: n of them cost log₂ n spans. Metrics count all.
Limits: an exception's text never enters a span, since it may hold a row's key or values; its type and code do. The text is in
`status` and in the workflow's history.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from pgduet.telemetry import subject
from pgduet.telemetry.faults import code_of, kind_of

NAME = "pgduet"
ALL_OF_FIRST = 4
MOST_STATEMENTS = 100
"""Statements of one activity that get a span; a traced batch of a backfill has as many of its own."""


@dataclass(slots=True)
class Budget:
    """How many statements may still be traced, and how many there were."""

    left: int = MOST_STATEMENTS
    seen: int = 0

    def spend(self) -> bool:
        """Count a statement; tells whether it may be traced."""
        self.seen += 1
        self.left -= 1
        return self.left >= 0


_BUDGET: ContextVar[Budget | None] = ContextVar("pgduet_statements", default=None)
"""None where statements are not traced at all."""


def tracer() -> trace.Tracer:
    """Give the tracer; it does nothing until the process, or who embeds us, has set a provider."""
    return trace.get_tracer(NAME)


def worth(number: int) -> bool:
    """Tell whether the nth of many is traced, counted from 1: the first few, then each power of two."""
    return number <= ALL_OF_FIRST or not number & (number - 1)


@contextmanager
def budgeted(budget: Budget | None) -> Iterator[None]:
    """Trace so many statements within; with None, none."""
    token = _BUDGET.set(budget)
    try:
        yield
    finally:
        _BUDGET.reset(token)


def untraced() -> AbstractContextManager[None]:
    """Trace no statement within: what is timed, and what only prepares."""
    return budgeted(None)


@contextmanager
def span(name: str, *, kind: SpanKind = SpanKind.INTERNAL, **marks: AttributeValue) -> Iterator[Span]:
    """Trace what happens within, below what is traced already; nothing where nothing is."""
    if not trace.get_current_span().is_recording():
        yield INVALID_SPAN
        return
    attributes = {**subject.current().marks(), **{f"{NAME}.{key}": value for key, value in marks.items()}}
    with (
        tracer().start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as made,
        told_failures(made),
    ):
        yield made


@contextmanager
def root_span(name: str) -> Iterator[Span]:
    """Begin a trace, or a part of the one that is open; how it fails is told by the error's type."""
    with (
        tracer().start_as_current_span(name, record_exception=False, set_status_on_exception=False) as made,
        told_failures(made),
    ):
        yield made


@contextmanager
def statement(describe: Callable[[], tuple[str, str]]) -> Iterator[Span]:
    """Trace one SQL statement; `describe` gives its summary and its text without values, and is called only if needed."""
    budget = _BUDGET.get()
    if budget is None or not trace.get_current_span().is_recording() or not budget.spend():
        yield INVALID_SPAN
        return
    summary, text = describe()
    with span(summary, kind=SpanKind.CLIENT) as made:
        made.set_attributes(
            {
                "db.system.name": "postgresql",
                "db.namespace": subject.current().database,
                "db.query.summary": summary,
                "db.query.text": text,
            }
        )
        yield made


def happened(name: str) -> None:
    """Note a moment on the span that is open."""
    trace.get_current_span().add_event(name)


@contextmanager
def told_failures(made: Span) -> Iterator[None]:
    """Mark a span as failed by what is raised within: its kind, never its text."""
    try:
        yield
    except BaseException as error:
        made.set_attribute("error.type", kind_of(error))
        if code := code_of(error):
            made.set_attribute(f"{NAME}.error.code", code)
        made.set_status(StatusCode.ERROR)
        raise
