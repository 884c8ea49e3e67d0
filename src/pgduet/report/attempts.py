"""Sorts a migration's rows and audit entries into facts: one `Attempt` for each start. Pure.

An attempt's entries are those from its `start` to the next one. Limits: lists are cut to what a page can show, the most
telling entries first; entries that a later version writes and this one does not know are passed over.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from pgduet.describe import operation_line
from pgduet.phases import Phase
from pgduet.plan.models import Plan
from pgduet.report import facts
from pgduet.windows import Window

MOST = 100
"""How many entries of a kind a report shows."""
MOST_BYTES = 1_500_000
"""Temporal takes 2 MB in one piece."""
_MAKES_SAFE = ("undo_cutover", "undo_shift")
_SAYS = frozenset({"start", "approve", "advance", "abort", "controls", "repair", "drift", "breach", "override"})

Row = Mapping[str, Any]
Item = TypeVar("Item")


def by_attempt(entries: Iterable[Row]) -> dict[int, list[Row]]:
    """Share a migration's entries out to its attempts, by the number that each `start` has in its evidence."""
    shared: dict[int, list[Row]] = {}
    number = 1
    for entry in entries:
        if entry["action"] == "start":
            number = int(entry["evidence"].get("attempt", number))
        shared.setdefault(number, []).append(entry)
    return shared


def attempt(row: Row, entries: list[Row], filled: Row | None, drift: list[facts.Drift]) -> facts.Attempt:
    """Give one attempt's facts, from its row of `pgduet.migration` and its entries in the audit log."""
    plan = Plan.model_validate(row["plan"])
    start = next((entry for entry in entries if entry["action"] == "start"), None)
    evidence = start["evidence"] if start else {}
    locks = [_lock(entry) for entry in entries if entry["action"] == "lock"]
    compared = [_comparison(entry) for entry in entries if entry["action"] in {"parity", "repair"}]
    routed = [
        _routed(entry) for entry in entries if "read_percent" in entry["evidence"] and "epoch" in entry["evidence"]
    ]
    return facts.Attempt(
        number=row["attempt"],
        **{key: row[key] for key in ("checksum", "from_version", "to_version", "phase", "state", "authority")},
        **{key: row[key] for key in ("started_at", "ended_at")},
        actor=start["actor"] if start else "unknown",
        reason=start["reason"] if start else None,
        **_plan(plan),
        hazards=list(evidence.get("hazards", [])),
        estimate=dict(evidence.get("estimate", {})),
        decisions=_last([_decision(entry) for entry in entries if entry["action"] in _SAYS]),
        phases=phases(entries),
        locks=_telling(locks, lambda lock: lock.tries > 1 or lock.held_ms is None),
        locks_total=len(locks),
        filled=_filled(entries, filled, row["controls"]),
        comparisons=_telling(compared, lambda one: bool(one.mismatches or one.violations or one.repaired or one.off)),
        comparisons_total=len(compared),
        probes=_last([probe for entry in entries for probe in _probes(entry)]),
        sampled=_last([_evidence(facts.Sampled, entry) for entry in entries if entry["action"] == "shadow"]),
        baked=_last([_evidence(facts.Baked, entry) for entry in entries if entry["action"] == "bake"]),
        routed=_last(routed),
        routed_total=len(routed),
        turn=_turn(entries, row["compensations"]),
        archived=sum(int(_archived(entry)) for entry in entries),
        restored=sum(int(entry["evidence"].get("restored", 0)) for entry in entries if entry["action"] == "publish"),
        contracted=sum(int(entry["evidence"].get("archived", 0)) for entry in entries if entry["action"] == "contract"),
        dropped=[
            name for entry in entries if entry["action"] == "contract" for name in entry["affected"].get("dropped", [])
        ],
        drift=drift,
    )


def fitted(found: facts.ReportFacts, limit_bytes: int = MOST_BYTES) -> facts.ReportFacts:
    """Cut facts to what goes through Temporal in one piece: the oldest attempts first, then the keys of rows that differed."""
    while len(found.model_dump_json()) > limit_bytes and len(found.attempts) > 1:
        found.attempts = found.attempts[1:]
    if len(found.model_dump_json()) > limit_bytes:
        for compared in (one for attempt in found.attempts for one in attempt.comparisons):
            compared.examples = []
    return found


def phases(entries: list[Row]) -> list[facts.PhaseTime]:
    """Time the phases: each is entered once, however often a lost workflow was adopted in it."""
    marks = [entry for entry in entries if entry["action"].startswith("enter ")]
    ends = [entry for entry in entries if entry["action"] in {"abort", "done", "rolled_back"}]
    firsts: list[Row] = []
    for mark in marks:
        if not firsts or firsts[-1]["action"] != mark["action"]:
            firsts.append(mark)
    left = entries[0]["at"] if entries and entries[0]["action"] == "start" else None
    timed = []
    for index, mark in enumerate(firsts):
        following = firsts[index + 1] if index + 1 < len(firsts) else next(iter(ends), None)
        waited_s = (mark["at"] - left).total_seconds() if left else None
        left = _left_at(mark, following)
        timed.append(
            facts.PhaseTime(
                phase=Phase(mark["action"].removeprefix("enter ")),
                entered_at=mark["at"],
                waited_s=max(0.0, waited_s) if waited_s is not None else None,
                left_at=left,
                worked_s=(left - mark["at"]).total_seconds() if left else None,
            )
        )
    return timed


def _left_at(mark: Row, following: Row | None) -> datetime | None:
    """Tell when a phase's work ended: as the workflow said at the next step, else when that step was written down."""
    if following is None:
        return None
    said = following["evidence"].get("left_at")
    told = datetime.fromisoformat(said) if said else None
    at: datetime = following["at"]
    # A rollback cuts a phase short: what was left before it is an earlier phase.
    return told if told and mark["at"] <= told <= at else at


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "description": plan.description,
        "owners": dict(plan.owners),
        "operations": [operation_line(operation) for operation in plan.operations],
        "risks": [risk.model_dump() for risk in plan.risks],
        "milestones": {milestone.name: milestone.due.isoformat() for milestone in plan.milestones},
        "lock_timeout_ms": plan.policy.lock_timeout_ms,
        "window_s": plan.policy.soak.window_s,
        "unmappable": plan.policy.unmappable,
    }


def _decision(entry: Row) -> facts.Decision:
    return facts.Decision(at=entry["at"], actor=entry["actor"], what=_what(entry), reason=entry["reason"])


def _window(value: Any) -> str:
    return str(Window.model_validate(value)) if isinstance(value, dict) else str(value)


def _what(entry: Row) -> str:
    action, evidence = entry["action"], entry["evidence"]
    if action == "approve":
        return f"approved {evidence.get('gate', 'a gate')}"
    if action == "controls":
        if "paused" in evidence:
            return "paused" if evidence["paused"] else "resumed"
        if "held" in evidence:
            return f"ranges that wait for others to end: {len(evidence['held'])}"
        shown = {name: _window(value) if name == "window" else value for name, value in sorted(evidence.items())}
        return "throttled: " + ", ".join(f"{name} = {value}" for name, value in shown.items())
    if action == "abort":
        return f"rolled back from {entry['affected'].get('phase', 'its phase')}"
    if action == "drift":
        off = evidence.get("aggregates", [])
        told = f"found {evidence.get('mismatches', 0)} rows that differ ({evidence.get('max_drift_rows', 0)} are borne)"
        return ", ".join([told, *(f"aggregate {name} differs" for name in off)]) + f": {evidence.get('then', 'wait')}"
    if action == "breach":
        step = (
            f"found the step of {evidence.get('read_percent', 0)} % beyond its {evidence.get('criterion', 'criteria')}"
        )
        return f"{step} ({evidence.get('detail', '')}): {evidence.get('then', 'wait')}"
    if action == "override":
        left, count = evidence.get("left", []), evidence.get("count", 0)
        more = f" and {count - len(left)} more" if count > len(left) else ""
        return f"went past clients of the old version in {evidence.get('phase', 'its phase')}: {', '.join(left)}{more}"
    if action == "repair":
        return f"repaired {evidence.get('repaired', 0)} rows"
    return {"start": "started", "advance": "advanced"}[action]


def _lock(entry: Row) -> facts.TableLock:
    evidence = entry["evidence"]
    return facts.TableLock(
        at=entry["at"],
        step=entry["affected"].get("step") or "unknown",
        locks=entry["affected"].get("locks", {}),
        tries=evidence["tries"],
        waited_ms=evidence["waited_ms"],
        held_ms=evidence.get("held_ms"),
    )


def _comparison(entry: Row) -> facts.Comparison:
    evidence = entry["evidence"]
    return facts.Comparison(
        at=entry["at"],
        actor=entry["actor"],
        rows=entry["affected"].get("rows", 0),
        **{key: evidence.get(key, 0) for key in ("mismatches", "violations", "repaired")},
        examples=evidence.get("examples", [])[:5],
        aggregates=evidence.get("aggregates", []),
    )


def _routed(entry: Row) -> facts.Routed:
    evidence = entry["evidence"]
    return facts.Routed(
        at=entry["at"],
        actor=entry["actor"],
        step=entry["action"],
        read_percent=evidence["read_percent"],
        authority=evidence["authority"],
    )


Known = TypeVar("Known", facts.Sampled, facts.Baked)


def _evidence(kind: type[Known], entry: Row) -> Known:
    known = {key: value for key, value in entry["evidence"].items() if key in kind.model_fields}
    return kind.model_validate({"at": entry["at"], **known})


def _probes(entry: Row) -> list[facts.Probe]:
    evidence = entry["evidence"]
    if entry["action"] == "prepare_cutover":
        return [facts.Probe(at=entry["at"], step="cutover", seen=evidence.get("reverse_probes", {}))]
    if entry["action"] != "probe":
        return []
    steps = {"forward": "dual_write", "reverse": "verify"}
    return [facts.Probe(at=entry["at"], step=steps.get(way, way), seen=seen) for way, seen in evidence.items()]


def _archived(entry: Row) -> int:
    """Count what a rollback saved: values as it withdrew the new version, rows of tables that it took away."""
    where = {"withdraw": entry["evidence"], "undo_expand": entry["affected"]}.get(entry["action"], {})
    return int(where.get("archived", 0))


def _filled(entries: list[Row], filled: Row | None, controls: Row) -> facts.Filled | None:
    began = next((entry["at"] for entry in entries if entry["action"] == "enter backfill"), None)
    ended = next((entry for entry in reversed(entries) if entry["action"] == "backfill"), None)
    if began is None:
        return None
    evidence = ended["evidence"] if ended else {}
    counted = filled or {"rows": 0, "batches": 0, "pages_done": 0, "pages": 0}
    return facts.Filled(
        rows=evidence.get("rows_written", counted["rows"]),
        batches=evidence.get("batches", counted["batches"]),
        pages_done=counted["pages_done"],
        pages=counted["pages"],
        began_at=began,
        ended_at=ended["at"] if ended else None,
        held_s=controls.get("held_s", {}),
        server_wal_mb=evidence.get("server_wal_mb"),
        pages_after=evidence.get("pages"),
    )


def _turn(entries: list[Row], compensations: list[str]) -> facts.Turn | None:
    abort = next((entry for entry in entries if entry["action"] == "abort"), None)
    if abort is None:
        return None
    undone = [entry["at"] for entry in entries if entry["action"] in _MAKES_SAFE]
    ended = next((entry["at"] for entry in entries if entry["action"] == "rolled_back"), None)
    safe = None if set(_MAKES_SAFE) & set(compensations) else max([abort["at"], *undone])
    return facts.Turn(
        at=abort["at"],
        actor=abort["actor"],
        reason=abort["reason"],
        phase=abort["affected"].get("phase"),
        safe_s=(safe - abort["at"]).total_seconds() if safe else None,
        withdrawn_s=(ended - abort["at"]).total_seconds() if ended else None,
    )


def _last(items: list[Item]) -> list[Item]:
    return items[-MOST:]


def _telling(items: list[Item], tells: Callable[[Item], bool]) -> list[Item]:
    """Cut a long list: the first, the last ones, and as many of those that tell something as there is room for."""
    if len(items) <= MOST:
        return items
    telling = [index for index, item in enumerate(items) if tells(item)][: MOST // 2]
    kept = {0, *telling, *range(len(items) - MOST // 2 + 1, len(items))}
    return [items[index] for index in sorted(kept)]
