"""The generated page of the reference about telemetry: metrics from the table that makes them, and what else is told."""

from pgduet.markdown import page, table
from pgduet.phases import JOURNEY
from pgduet.telemetry.batches import OUTCOMES, REASONS
from pgduet.telemetry.logs import FIELDS
from pgduet.telemetry.metrics import INSTRUMENTS, Instrument

SPANS = (
    ("`pgduet start`, `pgduet pause`, …", "CLI", "a command"),
    ("`StartWorkflow:…`, `SignalWorkflow:…`, `StartWorkflowUpdate:…`", "client", "what a client asked Temporal for"),
    (
        "`RunWorkflow:Migration`, `RunWorkflow:Backfill`, `RunWorkflow:Reconcile`",
        "worker",
        "that a run began; without length, parent of all it does",
    ),
    ("`HandleSignal:…`, `HandleUpdate:…`", "worker", "that an act was taken; in its sender's trace, linked to the run"),
    ("`RunActivity:…`", "worker", "a try of a step; of many tries the first four, then each power of two"),
    ("`connect`", "worker", "opening a session in PostgreSQL"),
    (
        "`table lock`",
        "worker",
        "from the first try to the lock and what was done under it; an event for each try that gave way",
    ),
    ("`backfill batch`", "worker", "a batch; of a range's batches the first four, then each power of two"),
    ("`sampled reads`", "worker", "reads through both versions, which are timed and therefore not traced one by one"),
    (
        '`UPDATE "public"."reviews"`, `SELECT pgduet.migration`, …',
        "worker",
        "a statement; at most 100 of a step or of a batch",
    ),
)
ATTRIBUTES = (
    (
        "`pgduet.database`, `pgduet.migration`, `pgduet.phase`",
        "which migration, as its plan names it, and where it stood",
    ),
    ("`db.query.summary`, `db.query.text`", "the statement; `?` stands for each value and each role"),
    ("`db.response.status_code`", "SQLSTATE of a statement that failed"),
    ("`error.type`, `pgduet.error.code`", "class and code of an error; never its text"),
    ("`pgduet.rows`, `pgduet.ms`, `pgduet.outcome`", "of a batch"),
    ("`pgduet.tries`", "of a table lock"),
    ("`pgduet.statements`", "how many statements a step ran, traced or not"),
    ("`temporalWorkflowID`, `temporalRunID`, `temporalActivityID`", "as Temporal's own interceptors name them"),
)


def telemetry_page() -> str:
    """Render the page."""
    metrics = table(
        ("metric", "in Prometheus", "kind", "unit", "what"),
        [(f"`{i.name}`", f"`{i.prometheus}`", _kind(i), f"`{i.unit}`", _text(i)) for i in INSTRUMENTS],
    )
    phases = ", ".join(f"{phase.position} `{phase}`" for phase in JOURNEY)
    return page(
        "Telemetry",
        "How to switch it on: [Watch with OpenTelemetry](../how-to/telemetry.md).",
        "## Metrics",
        "Every metric has the attributes `pgduet.database` and `pgduet.migration`. A histogram also gives `_count` and `_sum`.",
        metrics,
        f"Phases: {phases}.",
        table(("`reason` of a hold", "because"), [(f"`{word}`", text) for word, text in REASONS.items()]),
        table(("`outcome` of a batch", "means"), [(f"`{word}`", text) for word, text in OUTCOMES.items()]),
        "## Spans",
        table(("name", "by", "what"), list(SPANS)),
        table(("attribute", "what"), list(ATTRIBUTES)),
        "## Log lines",
        f"Fields beside time, level, logger and message: {', '.join(f'`{name}`' for name in FIELDS)}; with an error, `exception`:"
        " types, codes and places. By OTLP: `pgduet.database`, `pgduet.migration`, `pgduet.phase`, `exception.type`,"
        " `exception.stacktrace`.",
    )


def _kind(instrument: Instrument) -> str:
    return "gauge" if instrument.kind == "observed" else instrument.kind


def _text(instrument: Instrument) -> str:
    more = ", ".join(f"`{name}`" for name in instrument.attributes)
    return instrument.text + (f"; also by {more}" if more else "")
