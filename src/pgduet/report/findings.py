"""What follows from a report's facts: where it stands, what is left to do, what can still be had back. Pure.

Each finding names the measurement that it follows from; where nothing was measured, nothing is found.
"""

from collections.abc import Iterator

from psycopg import sql

from pgduet.acts import Message
from pgduet.describe import plain
from pgduet.hazards import RULES
from pgduet.phases import Phase, State
from pgduet.report.facts import Attempt, Report
from pgduet.report.words import count, size, when
from pgduet.sql import block

DEAD_SHARE = 0.1
DEAD_ROWS = 1_000


class Finding(Message):
    """Something that follows from the facts, and the lines that do something about it."""

    kind: str
    text: str
    command: str | None = None


def state(report: Report) -> str:
    """Tell the state: as the workflow says, else as the database has it."""
    if report.status and not refused(report):
        return report.status.state.value
    return report.last.state if report.last else State.FAILED.value


def refused(report: Report) -> bool:
    """Tell whether the newest start never got past preflight."""
    status = report.status
    return status is not None and status.phase is Phase.PREFLIGHT and status.state is State.FAILED


def phase(report: Report) -> Phase:
    """Tell the phase: as the workflow says, else as the database has it."""
    if report.status and not refused(report):
        return report.status.phase
    return report.last.phase if report.last else Phase.PREFLIGHT


# What is left to do


def follow_ups(report: Report) -> list[Finding]:
    """Say what somebody should do now."""
    return [*_standing(report), *_of_tables(report), *_of_archive(report), *_of_drift(report), *_of_hazards(report)]


def _standing(report: Report) -> Iterator[Finding]:
    name, last, status = report.facts.name, report.last, report.status
    if refused(report) and status:
        yield Finding(kind="refused", text=f"The newest start was refused: {_line(status.failure)}")
    elif last and not last.ended and (status is None or status.state is State.FAILED):
        text = (
            "Its workflow has ended or was lost, and the migration has not: both versions are kept in step meanwhile."
        )
        yield Finding(kind="lost", text=text, command=f"pgduet start PLAN\npgduet rollback {name}")
    elif status and status.waiting_for:
        commands = "\n".join(status.waiting_for.next_commands) or None
        text = f"It waits for {status.waiting_for.detail}, since {when(status.waiting_for.since)}."
        yield Finding(kind="waits", text=text, command=commands)


def _of_tables(report: Report) -> Iterator[Finding]:
    ended = bool(report.last and report.last.ended)
    for table in report.facts.tables:
        label = plain(table.label)
        if table.dead > DEAD_ROWS and table.dead > DEAD_SHARE * max(1, table.live):
            text = (
                f"{label} has {table.dead:,} dead rows beside {table.live:,} live ones, says PostgreSQL;"
                " VACUUM lets new rows use their room."
            )
            yield Finding(kind="bloat", text=text, command=f"VACUUM (ANALYZE) {table.label};")
        elif table.without_statistics:
            columns = ", ".join(table.without_statistics)
            text = f"{label} has no statistics of {columns} yet: plans of queries are guesses until it has."
            yield Finding(kind="statistics", text=text, command=f"ANALYZE {table.label};")
        for index in table.invalid_indexes:
            yield Finding(kind="index", text=f"The index {index} of {label} is not valid: rebuild or drop it.")
        for constraint in table.not_validated:
            yield Finding(kind="constraint", text=f"The constraint {constraint} of {label} is not validated.")
        if ended and table.leftovers:
            yield Finding(kind="leftover", text=f"Left on {label}: {', '.join(table.leftovers)}.")


def _of_archive(report: Report) -> Iterator[Finding]:
    waiting = sum(kept.saved - kept.restored for kept in report.facts.kept if kept.side == "new")
    if waiting and state(report) == State.DONE:
        text = (
            f"{count(waiting, 'archived value')} of the new version did not come back: somebody had written to those rows"
            " since, or a later attempt saved them anew. Look at them, then delete what nobody needs."
        )
        yield Finding(kind="archive", text=text)
    elif waiting and state(report) == State.ROLLED_BACK:
        text = f"{count(waiting, 'value')} of the new version wait in the archive: starting the plan again brings them back."
        yield Finding(kind="archive", text=text, command="pgduet start PLAN")
    old = sum(kept.saved for kept in report.facts.kept if kept.side == "old")
    if old or report.facts.kept_tables:
        what = [count(old, "old value")] if old else []
        what += [f"{plain(table.of)} ({size(table.bytes)})" for table in report.facts.kept_tables]
        text = f"The archive keeps {', '.join(what)}. Nothing deletes it: decide how long it is needed."
        yield Finding(kind="archive", text=text)


def _of_drift(report: Report) -> Iterator[Finding]:
    for drift in report.last.drift if report.last else []:
        if drift.open:
            text = (
                f"{count(drift.open, 'row')} of {plain(drift.relation)} still noted as {drift.kind}, in pgduet.drift."
            )
            yield Finding(kind="drift", text=text)


def _of_hazards(report: Report) -> Iterator[Finding]:
    """Remind of what was known at the start and accepted."""
    for told in report.last.hazards if report.last else []:
        rule = RULES.get(told.split(" ", 1)[0])
        text = f"Accepted at the start: {' '.join(told.split())}." + (f" Cure: {rule.cure}." if rule else "")
        yield Finding(kind="hazard", text=text)


# What can still be had back


def fallbacks(report: Report) -> list[Finding]:
    """Say what can still be had back, how, and until when."""
    last = report.last
    if last is None:
        return [Finding(kind="untouched", text="Nothing was touched: there is nothing to fall back from.")]
    return [*_way_back(report, last), *_saved(report), *_schemas(report)]


def _way_back(report: Report, last: Attempt) -> Iterator[Finding]:
    name, ends = report.facts.name, report.status.window_ends_at if report.status else None
    if last.state == State.DONE:
        text = (
            "There is no rollback from done: the old representation was dropped. What it alone knew is in the archive."
        )
        yield Finding(kind="none", text=text)
    elif last.state == State.ROLLED_BACK:
        yield Finding(kind="back", text="Everything is back: the tables are as they were, with every write since.")
    elif phase(report) is Phase.CONTRACT:
        text = "Contract has begun: while it still waits for clients to leave, a rollback is accepted; after that there is none."
        yield Finding(kind="contract", text=text, command=f"pgduet rollback {name}")
    else:
        until = f" The deprecation window ends at {when(ends)}." if ends else ""
        text = f"Until contract begins, a rollback puts everything back and loses nothing.{until}"
        yield Finding(kind="rollback", text=text, command=f"pgduet rollback {name}")
    if report.facts.builds_on_it and not last.ended:
        text = f"Later migrations build on it and go first: {', '.join(report.facts.builds_on_it)}."
        yield Finding(kind="chain", text=text)


def _saved(report: Report) -> Iterator[Finding]:
    sides = {
        "new": "that only the new version had, saved by a rollback",
        "old": "that only the old version had, saved by contract",
    }
    for kept in report.facts.kept:
        text = (
            f"{count(kept.saved, 'value')} of {plain(kept.relation)} {sides.get(kept.side, kept.side)}"
            f" (attempt {kept.attempt}); {kept.restored:,} restored."
        )
        asked = block("report", "show_values").format(
            name=sql.Literal(report.facts.name), attempt=sql.Literal(kept.attempt), side=sql.Literal(kept.side)
        )
        yield Finding(kind="values", text=text, command=asked.as_string(None).strip() + ";")
    for table in report.facts.kept_tables:
        text = f"The whole table {plain(table.of)}, {size(table.bytes)} (attempt {table.attempt})."
        asked = block("report", "show_table").format(table=sql.Identifier(table.name))
        yield Finding(kind="table", text=text, command=asked.as_string(None).strip() + ";")


def _schemas(report: Report) -> Iterator[Finding]:
    if report.facts.schemas:
        yield Finding(kind="schemas", text=f"Version schemas that are there: {', '.join(report.facts.schemas)}.")


def _line(text: str | None) -> str:
    return " ".join((text or "no reason was told").split())
