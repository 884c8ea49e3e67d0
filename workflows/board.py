"""The notice board: what the Temporal UI shows of a migration, as current details (Markdown) and search attributes."""

from temporalio import workflow
from temporalio.common import SearchAttributeKey

with workflow.unsafe.imports_passed_through():
    from pgduet.describe import lately
    from pgduet.messages import Reconciliation, Status
    from pgduet.phases import JOURNEY, Phase
    from pgduet.texts import shown

_DATABASE = SearchAttributeKey.for_keyword("PgduetDatabase")
_PHASE = SearchAttributeKey.for_keyword("PgduetPhase")
_STATE = SearchAttributeKey.for_keyword("PgduetState")
_READ_PERCENT = SearchAttributeKey.for_int("PgduetReadPercent")

DETAIL_CHARS = 1000
_MARKS = frozenset("\\`*[]<>!|#~&")
"""What can begin a mark, a link, an image or HTML; an underscore within a name marks nothing."""


def show(status: Status, commands: list[str], *, attributes: bool) -> None:
    """Put a migration's state up; search attributes only where they are registered, or the workflow would wedge."""
    workflow.set_current_details(details(status, commands))
    if attributes:
        workflow.upsert_search_attributes(
            [
                _DATABASE.value_set(status.database),
                _PHASE.value_set(status.phase),
                _STATE.value_set(status.state),
                _READ_PERCENT.value_set(status.read_percent),
            ]
        )


def details(status: Status, commands: list[str]) -> str:
    """Write the state as Markdown: the answer first, the next command last."""
    lines = [
        f"## {status.name} · {status.from_version} → {status.to_version}",
        f"**{status.state}** in **{status.phase}** · authority: {status.authority} · new path: {status.read_percent} %",
        "",
        journey(status),
        "",
    ]
    if status.waiting_for:
        lines += [
            f"**Waits for** {literal(status.waiting_for.detail)} (since {status.waiting_for.since:%Y-%m-%d %H:%M:%S} UTC)",
            "",
        ]
    if status.phase is Phase.BACKFILL:
        lines.append(f"- backfill: {status.backfill.percent:.0f} % · {status.backfill.rows_done:,} rows")
    if status.parity:
        lines.append(
            f"- parity: {status.parity.mismatches} of {status.parity.rows:,} rows differ"
            f" (checked {status.parity.checked_at:%Y-%m-%d %H:%M:%S} UTC)"
        )
        lines += [f"- {literal(each.told)}" for each in status.parity.off]
    if status.drift:
        lines.append(f"- **drift** beyond what the plan bears: {literal(status.drift)}")
    if status.reconciliation:
        lines.append(f"- comparisons: {_comparisons(status.reconciliation)}")
    if status.census:
        lines.append("- clients: " + ", ".join(literal(f"{each.who} on {each.version}") for each in status.census[:10]))
    lines += [f"- {literal(line)}" for line in lately(status.decisions)]
    if status.failure:
        lines.append(f"- failure: {literal(status.failure)}")
    lines += ["", "Next:", "", *(f"- `{command}`" for command in commands)]
    return "\n".join(lines)


def _comparisons(known: Reconciliation) -> str:
    if known.why_not:
        return f"not scheduled: {literal(known.why_not)}"
    told = f"every {known.every_s:g} s by the schedule `{known.schedule_id}`" + (", held" if known.held else "")
    return told + (f", the last one failed: {literal(known.failing)}" if known.failing else "")


def literal(text: str) -> str:
    """Have Markdown show a text as it is: names and reasons come from people, from clients and from data."""
    return "".join(f"\\{char}" if char in _MARKS else char for char in shown(text, DETAIL_CHARS))


def journey(status: Status) -> str:
    """Draw the journey in one line."""
    if status.phase is Phase.ROLLED_BACK:
        return "rolled back ✔"
    here = status.phase.position
    marks = []
    for phase in JOURNEY[1 : JOURNEY.index(Phase.DONE)]:
        mark = "✔" if phase.position < here else "●" if phase.position == here else "○"
        marks.append(f"{phase} {mark}")
    return " ".join(marks)
