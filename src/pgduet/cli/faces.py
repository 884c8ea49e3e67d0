"""The pages of `pgduet status`: one migration, and the table of all. Pure: a Status in, a Rich renderable out.

Limits: at most 100 columns. Colour only repeats what words and signs say: ✔ behind, ● here, ○ ahead, ✘ where it failed,
↩ undone.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pgduet.cli.next_steps import compares_now, next_commands, stands
from pgduet.cli.words import bar, clock, flow, moment, short, span, times
from pgduet.describe import lately, limits_told
from pgduet.errors import PgduetError
from pgduet.messages import Client, Parity, Reconciliation, Status, Throttled
from pgduet.phases import JOURNEY, Phase, State

WIDTH = 100
NAMED = 20
"""So many clients of each version are on the page."""
SHOWN = JOURNEY[JOURNEY.index(Phase.EXPAND) : JOURNEY.index(Phase.DONE)]
_STYLES = {
    State.RUNNING: "cyan",
    State.WAITING: "yellow",
    State.PAUSED: "yellow",
    State.ROLLING_BACK: "magenta",
    State.ROLLED_BACK: "magenta",
    State.FAILED: "red",
    State.DONE: "green",
}
_DOING = {
    Phase.PREFLIGHT: "checking the plan against the catalogue",
    Phase.EXPAND: "adding what the new version needs, empty and without constraints",
    Phase.DUAL_WRITE: "installing the triggers that keep both versions in step",
    Phase.BACKFILL: "filling the rows that exist, in small batches",
    Phase.VERIFY: "comparing every row of both versions",
    Phase.SHADOW: "reading through both versions and comparing the answers",
    Phase.SHIFT: "moving reads to the new version, step by step",
    Phase.CUTOVER: "validating constraints and handing authority to the new version",
    Phase.SOAK: "keeping the old version alive",
    Phase.CONTRACT: "removing the old version",
}


def status_page(
    status: Status, *, now: datetime | None = None, width: int = WIDTH, database: str | None = None
) -> RenderableType:
    """Render where a migration stands: the answer first, the next command last; with `database` as it was asked for."""
    width = min(width, WIDTH)
    now = now or datetime.now(UTC)
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(min_width=10, style="dim")
    facts.add_column(overflow="fold")
    for label, value in _facts(status, now):
        facts.add_row(label, Text(value) if isinstance(value, str) else value)
    phases = flow([_phase(phase, status) for phase in SHOWN], width)
    page = Group(_header(status, width), phases, "", Padding(facts, (0, 0, 0, 2)), "", _next(status, database))
    return Constrain(page, width)


def migrations_table(
    statuses: list[Status], *, now: datetime | None = None, missing: PgduetError | None = None
) -> RenderableType:
    """Render all migrations, one a line; `missing` says why more is not known of those that run."""
    if not statuses:
        return Text("No migration was started yet.\n\nnext  pgduet start PLAN")
    now = now or datetime.now(UTC)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("migration", "database", "version", "state", "phase", "waits for"):
        table.add_column(heading, overflow="fold")
    for each in statuses:
        versions = f"{each.from_version} → {each.to_version}" if each.to_version else ""
        waits = each.waiting_for.detail if each.waiting_for else _closed(each)
        state = Text(_words(each.state), style=_STYLES[each.state])
        table.add_row(Text(each.name), Text(each.database), versions, state, each.phase.value, Text(waits))
    if missing:
        told = Text(f"{missing.message}: this is what Temporal heard last", style="yellow")
        return Group(table, "", told, "", Text("next  pgduet worker"))
    return Group(table, "", Text("next  pgduet status NAME"))


def _closed(status: Status) -> str:
    """Tell of a closed window; what else holds a backfill changes too fast for what a migration says of itself."""
    throttle = status.backfill.throttle if status.phase is Phase.BACKFILL else None
    return throttle.reason if throttle and throttle.kind == "window" else ""


def one_line(status: Status) -> str:
    """Tell where a migration stands in a line, for logs."""
    place = f"{status.name}  {_standing(status)}"
    if status.failure and status.state is State.FAILED:
        return f"{place} · {status.failure.splitlines()[-1].strip()}"
    if status.waiting_for:
        return f"{place} · waits for {status.waiting_for.detail}"
    if status.state is not State.RUNNING:
        return place
    if status.phase is Phase.BACKFILL and status.backfill.rows_done:
        return f"{place} · {backfill_line(status)}"
    return f"{place} · {_DOING[status.phase]}" if status.phase in _DOING else place


def backfill_line(status: Status, now: datetime | None = None, *, pace: bool = True) -> str:
    """Tell how far the backfill is, how fast it goes and what slows it, since when and for how long at most."""
    filled = status.backfill
    told = [
        f"{bar(filled.percent)} {filled.percent:.0f} %",
        f"{filled.rows_done:,} of {filled.rows_total:,}" if filled.rows_total else f"{filled.rows_done:,} rows",
    ]
    if filled.rows_per_second > 0:
        told.append(f"{short(filled.rows_per_second)} rows/s")
    if filled.eta_s is not None:
        told.append(f"{clock(filled.eta_s)} left")
    if filled.throttled_by and pace:
        told.append(f"pace: {_held_by(status, now or datetime.now(UTC))}")
    return " · ".join(told)


def _held_by(status: Status, now: datetime) -> str:
    return f"{status.backfill.throttled_by}{_patience(status.backfill.throttle, now)}"


def _told_above(status: Status) -> bool:
    paused = status.state is State.PAUSED and status.comparison is not None and status.comparison.kind == "paused"
    return paused or compares_now(status)


def _with_patience(throttle: Throttled, now: datetime) -> str:
    return f"{throttle.reason}{_patience(throttle, now)}"


def _patience(throttle: Throttled | None, now: datetime) -> str:
    """Tell since when it pauses and when it goes on at the latest, or how much of its rate is left."""
    if throttle is None or throttle.kind in {"paused", "parallelism"}:
        return ""
    if throttle.kind == "window":
        return f", since {moment(throttle.since, now)}" if throttle.since else ""
    if throttle.rate:
        since = f" since {moment(throttle.since, now)}" if throttle.since else ""
        share = f"going on at {throttle.rate:.0%} of the rate".replace("%", " %") if throttle.rate < 1 else ""
        return f", {share}{since}" if share else ""
    told = f", pausing since {moment(throttle.since, now)}" if throttle.since else ", pausing"
    if throttle.until:
        return f"{told}; goes on at latest {moment(throttle.until, now)} at a quarter of the rate"
    return f"{told}, until it is over"


def _header(status: Status, width: int) -> RenderableType:
    left = Text(status.name, style="bold").append(f"  on {status.database}", style="not bold")
    if status.to_version:
        left.append(f"   {status.from_version} → {status.to_version}", style="not bold")
    right = Text(_standing(status), style=_STYLES[status.state])
    gap = width - left.cell_len - right.cell_len
    return left.append(" " * gap).append_text(right) if gap >= 2 else Group(left, right)


def _standing(status: Status) -> str:
    if status.state in {State.DONE, State.ROLLED_BACK}:
        return _words(status.state)
    share = f" {status.read_percent} %" if status.phase is Phase.SHIFT else ""
    return f"{_words(status.state)} · {status.phase.value}{share}"


def _words(state: State) -> str:
    return state.value.replace("_", " ")


def _phase(phase: Phase, status: Status) -> Text:
    share = f"{status.read_percent}%" if phase is Phase.SHIFT is status.phase else ""
    sign, style = _sign(phase, status)
    return Text(f"{phase.value} ").append(f"{sign}{share}", style=style)


def _sign(phase: Phase, status: Status) -> tuple[str, str]:
    if status.phase is Phase.ROLLED_BACK:
        # A run that adopted what another one left knows only the phases after that.
        entered = any(timing.phase in SHOWN and phase.reached(timing.phase) for timing in status.timings)
        return ("↩", "magenta") if entered else ("○", "dim")
    if phase is status.phase:
        return ("✘", "red") if status.state is State.FAILED else ("●", _STYLES[status.state])
    return ("✔", "green") if phase.reached(status.phase) else ("○", "dim")


def _facts(status: Status, now: datetime) -> Iterator[tuple[str, str | Text]]:
    yield _waits(status, now)
    if status.rollback:
        yield "because", status.rollback
    if status.phase is not Phase.ROLLED_BACK:
        yield from _measured(status, now)
    yield from _clients(status, now)
    overlap = _overlap(status, now)
    if overlap:
        yield "overlap", overlap
    if status.approvals:
        yield "approvals", "; ".join(f"{gate}: {', '.join(who)}" for gate, who in status.approvals.items())
    for number, line in enumerate(lately(status.decisions)):
        yield "" if number else "lately", line
    if status.archived or status.restored:
        yield "archive", f"{times(status.archived, 'value')} archived, {status.restored:,} restored"


def _measured(status: Status, now: datetime) -> Iterator[tuple[str, str]]:
    criteria = list(_criteria(status))
    if criteria:
        yield "criteria", " · ".join(criteria)
    if status.phase is Phase.BACKFILL:
        # One that stands still says so above; what a slice met before somebody paused it may be over.
        told_above = stands(status) or status.state is State.PAUSED
        yield "backfill", backfill_line(status, now, pace=not told_above)
        if status.backfill.limits:
            yield "limits", f"{', '.join(limits_told(status.backfill.limits))} (by an operator, over the plan's)"
        if status.backfill.unmeasured:
            yield "not seen", status.backfill.unmeasured
    elif status.parity:
        yield "rows", _parity(status.parity, now)
    if status.drift:
        yield "drift", "beyond what the plan bears: it stands in the way until it is gone, or somebody advances past it"
    if status.reconciliation:
        yield "compares", _comparisons(status.reconciliation, now)
    if status.comparison and not _told_above(status):
        yield "" if status.reconciliation else "compares", f"now: {_with_patience(status.comparison, now)}"
    if status.parity and status.parity.examples:
        yield "differ", "; ".join(example_line(example) for example in status.parity.examples[:3])


def _waits(status: Status, now: datetime) -> tuple[str, str | Text]:
    if status.failure and status.state is State.FAILED:
        lines = (line.removeprefix("  ") for line in status.failure.splitlines())
        return "failed", Text("\n".join(lines), style="red")
    waiting = status.waiting_for
    if waiting:
        return "waits for", Text(f"{waiting.detail} (since {moment(waiting.since, now)})", style="yellow")
    if stands(status):
        return "waits for", Text(_held_by(status, now), style="yellow")
    if status.comparison and compares_now(status):
        return "waits for", Text(_with_patience(status.comparison, now), style="yellow")
    match status.state:
        case State.DONE:
            return "waits for", "nothing: it is done, and only the new version is left"
        case State.ROLLED_BACK:
            return "waits for", "nothing: everything is back as it was"
        case State.ROLLING_BACK:
            stage = "the new version's objects are being withdrawn" if status.safe else "the old version takes over"
            return "waits for", f"nothing: {stage}"
        case State.PAUSED:
            return "waits for", "somebody to resume it"
    return "waits for", f"nothing: it is {_DOING.get(status.phase, 'at work')}"


def _criteria(status: Status) -> Iterator[str]:
    seen = status.traffic
    if seen and (seen.routers or seen.reads_new):
        yield f"errors {seen.errors_new:,} of {seen.reads_new:,} reads"
    if seen and seen.compared:
        yield f"differ {seen.mismatches:,} of {seen.compared:,} compared reads"
    if seen and seen.p50_new_ms is not None:
        old = "" if seen.p50_old_ms is None else f", {seen.p50_old_ms:.1f} ms old"
        yield f"routers' p50 {seen.p50_new_ms:.1f} ms new{old}"
    if seen and seen.new_ms is not None and seen.old_ms is not None:
        whose = "p50" if seen.p50_new_ms is None else "the probe's"
        yield f"{whose} {seen.new_ms:.1f} ms new, {seen.old_ms:.1f} ms old"
    if status.shadow and status.shadow.samples:
        yield f"shadow {status.shadow.mismatches:,} of {status.shadow.samples:,} differ"
    if status.parity:
        yield f"drift {status.parity.mismatches:,}"


def _parity(parity: Parity, now: datetime) -> str:
    same = f"{parity.rows:,} old = {parity.rows:,} new"
    told = [same if not parity.mismatches else f"{parity.mismatches:,} of {times(parity.rows, 'row')} differ"]
    if parity.violations:
        told.append(f"{times(parity.violations, 'row')} against the new constraints")
    if parity.aggregates:
        off = f"{len(parity.off)} of " if parity.off else ""
        told.append(f"{off}{times(len(parity.aggregates), 'aggregate')} {'differ' if off else 'the same'}")
    if parity.repaired:
        told.append(f"{parity.repaired:,} repaired")
    told.append(f"parity {moment(parity.checked_at, now)}, {'fresh' if parity.fresh else 'stale'}")
    return " · ".join(told)


def _comparisons(known: Reconciliation, now: datetime) -> str:
    """Tell when both versions were compared last and will be next, or why they are not."""
    if known.why_not:
        return f"in soak only, and nothing before: there is no schedule here ({known.why_not})"
    told = [f"every {span(known.every_s)}"]
    if known.last_at:
        told.append(f"last {moment(known.last_at, now)}" + (", under way" if known.running else ""))
    if known.paused:
        told.append(f"not now: {known.paused}")
    elif known.next_at:
        told.append(f"next {moment(known.next_at, now)}")
    if known.failing:
        told.append(f"the last one failed: {known.failing}")
    return " · ".join(told)


def example_line(example: dict[str, object]) -> str:
    """Name a row that differs by its key, with the kind and PostgreSQL's reason where they are known."""
    key = example.get("key")
    shown = ", ".join(f"{name}={value}" for name, value in key.items()) if isinstance(key, dict) else str(key)
    told = " ".join(part for part in (str(example.get("relation") or ""), shown) if part)
    why = " ".join(str(example[part]) for part in ("kind", "reason", "detail") if example.get(part))
    return f"{told} ({why})" if why else told


def _clients(status: Status, now: datetime) -> Iterator[tuple[str, str]]:
    label = "clients"
    for side in ("old", "new"):
        who = [_client(client, now) for client in status.census if client.side == side]
        if who:
            more = f" and {len(who) - NAMED:,} more (--json has them)" if len(who) > NAMED else ""
            yield label, f"{side}: {', '.join(who[:NAMED])}{more}"
            label = ""


def _client(client: Client, now: datetime) -> str:
    idle = (now - client.last_seen).total_seconds()
    seen = times(client.sessions, "session") if idle < 300 else f"last seen {moment(client.last_seen, now)}"
    return f"{client.who} ({client.via}, {seen})"


def _overlap(status: Status, now: datetime) -> str | None:
    turned = status.state is State.ROLLING_BACK
    if turned or status.phase in {Phase.PREFLIGHT, Phase.CONTRACT, Phase.DONE, Phase.ROLLED_BACK}:
        return None
    lossless = "rollback is lossless until contract"
    if status.no_way_back:
        lossless = f"no way back: {status.no_way_back}"
    if status.window_ends_at is None:
        return lossless
    left = (status.window_ends_at - now).total_seconds()
    return f"{span(left)} left · {lossless}" if left > 0 else f"window is over · {lossless}"


def _next(status: Status, database: str | None) -> RenderableType:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim", width=4)
    table.add_column(overflow="fold")
    table.add_column(style="dim")
    for index, (command, note) in enumerate(next_commands(status, database)):
        table.add_row("" if index else "next", Text(command, style="bold"), Text(note))
    return table
