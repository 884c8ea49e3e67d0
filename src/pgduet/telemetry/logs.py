"""Log lines that say which migration they are about, in which phase, and in which trace.

Mechanism: a filter on the handler adds `migration`, `database`, `phase`, `trace_id` and `span_id` to every record: those of the
activity that runs, or those of the workflow that Temporal's own loggers name. `PGDUET_LOG` sets the level, `PGDUET_LOG_FORMAT`
is `text` (default) or `json`, one object a line.
Limits: an error's text never enters a line, since it may hold a row's key or values; its type, its code and the places of its
traceback do. Nor does psycopg write lines of its own: it names host and user in them.
"""

import json
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from pgduet.errors import PgduetError
from pgduet.telemetry import subject
from pgduet.telemetry.faults import kind_of, traced_back

FIELDS = ("database", "migration", "phase", "trace_id", "span_id")
_SENDERS = ("opentelemetry", "urllib3", "requests")
_SEVERITIES = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}


class NamesMigration(logging.Filter):
    """Adds the fields to a record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Name the migration; lets every record through."""
        about = subject.current()
        if about is subject.NOBODY:
            told = getattr(record, "temporal_workflow", None) or getattr(record, "temporal_activity", None) or {}
            about = subject.of_workflow(told.get("workflow_id"))
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, getattr(about, name))
        return True


class Text(logging.Formatter):
    """For people: the migration stands before the message, the trace after it."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        """Write one line, and a traceback below it where there is one."""
        line = super().format(record)
        head, _, rest = line.partition("\n")
        trace_id = getattr(record, "trace_id", "")
        return head + (f"  trace={trace_id}" if trace_id else "") + (f"\n{rest}" if rest else "")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """Write the line itself."""
        place = "/".join(filter(None, (record.__dict__.get("database"), record.__dict__.get("migration"))))
        phase = record.__dict__.get("phase")
        where = f" [{place}{f' {phase}' if phase else ''}]" if place else ""
        return f"{record.asctime} {record.levelname}{where} {record.message}"

    def formatException(self, ei: Any) -> str:  # noqa: N802  (logging's name)
        """Write a traceback without any error's text."""
        return traced_back(ei[1])

    def usesTime(self) -> bool:  # noqa: N802  (logging's name)
        """Every line has its time."""
        return True


class Json(logging.Formatter):
    """For machines: one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the object; fields that are not known are left out."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name in FIELDS if (value := getattr(record, name, ""))}
        if record.exc_info:
            told["exception"] = traced_back(record.exc_info[1])
        return json.dumps(told, ensure_ascii=False, default=str)


_FORMATS: dict[str, type[logging.Formatter]] = {"text": Text, "json": Json}


def write_logs() -> None:
    """Write a worker's lines to stderr, as the environment says.

    Raises:
        PgduetError: there is no such level or format.
    """
    level, chosen = os.environ.get("PGDUET_LOG", "INFO").upper(), os.environ.get("PGDUET_LOG_FORMAT", "text").lower()
    if level not in logging.getLevelNamesMapping():
        raise PgduetError(f"PGDUET_LOG: there is no level {level}", hint="DEBUG, INFO, WARNING or ERROR.")
    if chosen not in _FORMATS:
        raise PgduetError(f"PGDUET_LOG_FORMAT: there is no format {chosen}", hint="text or json.")
    handler = logging.StreamHandler()
    handler.addFilter(NamesMigration())
    handler.setFormatter(_FORMATS[chosen]())
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("psycopg").setLevel(logging.CRITICAL + 1)
    # Below this level Temporal's SDK writes whole payloads and failures.
    logging.getLogger("temporalio").setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level]))


class _ToOpenTelemetry(logging.Handler):
    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self.provider = provider
        self.addFilter(NamesMigration())

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_SENDERS):
            return  # What sends must not send lines about sending.
        attributes = {f"pgduet.{name}": value for name in FIELDS[:3] if (value := getattr(record, name, ""))}
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            attributes |= {"exception.type": kind_of(error), "exception.stacktrace": traced_back(error)}
        self.provider.get_logger(record.name).emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                context=_context(record),
                severity_text=record.levelname,
                severity_number=_SEVERITIES.get(record.levelno, SeverityNumber.UNSPECIFIED),
                body=record.getMessage(),
                attributes=attributes,
            )
        )


def _context(record: logging.LogRecord) -> Context:
    """Say in which span a line was written; none where it was written in none."""
    if not getattr(record, "trace_id", ""):
        return Context()
    span = SpanContext(int(record.__dict__["trace_id"], 16), int(record.__dict__["span_id"], 16), is_remote=False)
    return set_span_in_context(NonRecordingSpan(span), Context())


def export_logs(exporters: Sequence[LogRecordExporter], resource: Resource) -> LoggerProvider:
    """Send the lines to exporters too; their times, levels, migrations and traces go with them."""
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    logging.getLogger().addHandler(_ToOpenTelemetry(provider))
    return provider
