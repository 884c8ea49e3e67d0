"""What follows from a report's facts: only what the facts bear out, and each thing with what can be done about it."""

from datetime import timedelta
from typing import Any

import pytest
from support.reports import NAME, at, attempt, compared, report, status, waits

from pgduet.phases import Authority, Phase, State
from pgduet.plan.load import parse_plan
from pgduet.report import attempts, facts
from pgduet.report.findings import fallbacks, follow_ups
from pgduet.report.lessons import lessons, milestones, paused

PLAN = {
    "name": NAME,
    "database": "shop",
    "version": {"from": "1", "to": "2"},
    "operations": [{"add_column": {"table": "public.seats", "column": {"name": "mood", "type": "text"}}}],
    "milestones": [{"name": "cutover", "due": "2026-12-01"}],
}


def entry(seconds: float, action: str, *, actor: str = "ann", reason: str | None = None, **more: Any) -> dict[str, Any]:
    told = {"affected": {}, "evidence": {}} | more
    return {"seq": int(seconds * 10), "at": at(seconds), "action": action, "actor": actor, "reason": reason, **told}


def row(**changes: Any) -> dict[str, Any]:
    plan = parse_plan(PLAN)
    made = {
        "id": 1,
        "attempt": 1,
        "checksum": "c0ffee",
        "from_version": "1",
        "to_version": "2",
        "plan": plan.model_dump(mode="json", by_alias=True),
        "phase": "soak",
        "state": "waiting",
        "authority": "new",
        "controls": {},
        "compensations": [],
        "started_at": at(0),
        "ended_at": None,
    }
    return made | changes


def table(**changes: Any) -> facts.TableNow:
    return facts.TableNow(**({"label": '"public"."seats"', "bytes": 9, "live": 10_000, "dead": 0} | changes))


def kinds(found: list[Any]) -> list[str]:
    return [each.kind for each in found]


# The audit log, sorted


def test_entries_belong_to_the_attempt_whose_start_came_before() -> None:
    log = [
        entry(0, "start", evidence={"attempt": 1}),
        entry(1, "enter expand"),
        entry(2, "rolled_back"),
        entry(3, "start", evidence={"attempt": 2}),
        entry(4, "enter expand"),
    ]
    assert {number: len(mine) for number, mine in attempts.by_attempt(log).items()} == {1: 3, 2: 2}


def test_a_phase_took_as_long_as_its_work_and_the_rest_was_the_gate() -> None:
    log = [
        entry(0, "start"),
        entry(5, "enter expand"),
        entry(60, "enter dual_write", evidence={"left_at": at(7).isoformat()}),
        entry(61, "done", evidence={"left_at": at(60.5).isoformat()}),
    ]
    expand, dual_write = attempts.phases(log)
    assert (expand.waited_s, expand.worked_s) == (5.0, 2.0)
    assert (dual_write.waited_s, dual_write.worked_s) == (53.0, 0.5)


def test_a_phase_that_a_rollback_cut_short_ended_with_it() -> None:
    log = [
        entry(0, "start"),
        entry(1, "enter expand"),
        entry(3, "enter backfill", evidence={"left_at": at(2).isoformat()}),
        entry(9, "abort", evidence={"left_at": at(2).isoformat()}),
    ]
    assert [phase.worked_s for phase in attempts.phases(log)] == [1.0, 6.0]


def test_a_phase_in_which_a_lost_workflow_was_adopted_began_once() -> None:
    log = [entry(0, "start"), entry(1, "enter backfill"), entry(30, "enter backfill"), entry(40, "enter verify")]
    assert [(phase.phase, phase.entered_at) for phase in attempts.phases(log)] == [
        (Phase.BACKFILL, at(1)),
        (Phase.VERIFY, at(40)),
    ]
    assert attempts.phases(log)[-1].worked_s is None


def test_a_log_of_an_earlier_version_without_estimate_or_locks_is_read_as_far_as_it_goes() -> None:
    made = attempts.attempt(row(), [entry(0, "start"), entry(1, "enter backfill")], None, [])
    assert (made.estimate, made.locks, made.actor) == ({}, [], "ann")
    assert made.filled is not None
    assert made.filled.ended_at is None


def test_a_row_without_any_audit_entry_still_has_an_attempt() -> None:
    made = attempts.attempt(row(), [], None, [])
    assert (made.number, made.actor, made.phases, made.decisions) == (1, "unknown", [], [])


def test_a_long_list_keeps_its_first_its_last_and_those_that_tell_something() -> None:
    log = [
        entry(n, "parity", affected={"rows": 5}, evidence={"mismatches": int(n == 77), "violations": 0, "repaired": 0})
        for n in range(1000)
    ]
    made = attempts.attempt(row(), log, None, [])
    kept = [one.at for one in made.comparisons]
    assert len(kept) <= attempts.MOST
    assert made.comparisons_total == 1000
    assert {at(0), at(77), at(999)} <= set(kept)
    assert kept == sorted(kept)


def test_facts_are_cut_to_what_temporal_takes_the_oldest_first() -> None:
    long = [facts.Decision(at=at(0), actor="ann", what="advanced", reason="x" * 2000)] * 100
    examples = [{"relation": "t", "key": {"id": "k" * 2000}, "kind": "mismatch"}] * 5
    made = report(*(attempt(number=number, decisions=long) for number in range(1, 21))).facts
    cut = attempts.fitted(made)
    assert len(cut.model_dump_json()) <= attempts.MOST_BYTES
    assert cut.attempts_total == 20
    assert [each.number for each in cut.attempts] == list(range(21 - len(cut.attempts), 21))
    one = report(attempt(comparisons=[compared(1, mismatches=9, examples=examples)] * 100, comparisons_total=100)).facts
    assert len(attempts.fitted(one, 500_000).model_dump_json()) < 500_000
    assert {each.mismatches for each in one.attempts[0].comparisons} == {9}


def test_decisions_are_those_of_people_and_of_criteria() -> None:
    log = [
        entry(0, "start"),
        entry(1, "enter expand"),
        entry(2, "controls", evidence={"paused": True}, reason="lunch"),
        entry(3, "controls", evidence={"paused": False}),
        entry(4, "controls", evidence={"pause_ms": 50.0}),
        entry(5, "approve", actor="bob", evidence={"gate": "cutover"}),
        entry(6, "advance"),
        entry(7, "abort", actor="pgduet", affected={"phase": "soak"}, reason="3 of 9 rows differ"),
    ]
    made = attempts.attempt(row(), log, None, [])
    assert [(each.actor, each.what) for each in made.decisions] == [
        ("ann", "started"),
        ("ann", "paused"),
        ("ann", "resumed"),
        ("ann", "throttled: pause_ms = 50.0"),
        ("bob", "approved cutover"),
        ("ann", "advanced"),
        ("pgduet", "rolled back from soak"),
    ]
    assert paused(made, at(100)) == 1.0


def test_a_pause_that_lasts_counts_until_now() -> None:
    made = attempts.attempt(row(), [entry(0, "start"), entry(2, "controls", evidence={"paused": True})], None, [])
    assert paused(made, at(12)) == 10.0


# What is left to do


def test_when_nothing_is_left_to_do_nothing_is_said() -> None:
    assert follow_ups(report(attempt(), tables=[table()])) == []


def test_dead_rows_are_told_where_they_are_many() -> None:
    assert follow_ups(report(attempt(), tables=[table(dead=999)])) == []
    [found] = follow_ups(report(attempt(), tables=[table(dead=9_000)]))
    assert (found.kind, found.command) == ("bloat", 'VACUUM (ANALYZE) "public"."seats";')


def test_what_a_table_lacks_is_told() -> None:
    poor = table(
        without_statistics=["mood"], invalid_indexes=["i"], not_validated=["c"], leftovers=["column _pgduet_seats_mood"]
    )
    assert kinds(follow_ups(report(attempt(), tables=[poor]))) == ["statistics", "index", "constraint", "leftover"]


def test_columns_in_the_making_are_no_leftovers_while_it_runs() -> None:
    running = attempt(state="running", phase=Phase.SOAK, ended_at=None)
    made = report(
        running, status=status(Phase.SOAK, State.RUNNING), tables=[table(leftovers=["column _pgduet_seats_mood"])]
    )
    assert follow_ups(made) == []


def test_what_is_waited_for_comes_first_with_its_commands() -> None:
    waiting = waits(
        "approval", "approval of contract: 0 of 2", "pgduet approve seats --gate contract", "pgduet rollback seats"
    )
    made = report(
        attempt(state="waiting", phase=Phase.SOAK, ended_at=None),
        status=status(Phase.SOAK, State.WAITING, waiting_for=waiting),
        tables=[table(dead=9_000)],
    )
    found = follow_ups(made)
    assert kinds(found) == ["waits", "bloat"]
    assert found[0].command == "pgduet approve seats --gate contract\npgduet rollback seats"


def test_a_lost_workflow_is_to_be_adopted() -> None:
    live = attempt(state="waiting", phase=Phase.SOAK, ended_at=None)
    assert kinds(follow_ups(report(live))) == ["lost"]
    assert kinds(follow_ups(report(live, status=status(Phase.SOAK, State.FAILED)))) == ["lost"]


def test_accepted_hazards_are_reminded_of_with_their_cure() -> None:
    [found] = follow_ups(report(attempt(hazards=["PD-H05  the table has no primary key: public.seats"])))
    assert found.text == (
        "Accepted at the start: PD-H05 the table has no primary key: public.seats. Cure: add a primary key first, if you can."
    )


def test_archived_values_that_did_not_come_back_are_told() -> None:
    kept = [facts.Kept(attempt=1, relation='"public"."seats"', side="new", saved=9, restored=7)]
    [found] = follow_ups(report(attempt(), kept=kept))
    assert found.text.startswith("2 archived values of the new version did not come back")
    back = attempt(state="rolled_back", phase=Phase.ROLLED_BACK)
    [found] = follow_ups(report(back, kept=kept))
    assert found.command == "pgduet start PLAN"


# What can still be had back


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (report(), "untouched"),
        (report(attempt()), "none"),
        (report(attempt(state="rolled_back", phase=Phase.ROLLED_BACK)), "back"),
        (report(attempt(state="running", phase=Phase.SHIFT, ended_at=None)), "rollback"),
        (report(attempt(state="running", phase=Phase.CONTRACT, ended_at=None)), "contract"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_way_back_is_told_for_where_it_stands(made: facts.Report, kind: str) -> None:
    assert kinds(fallbacks(made)) == [kind]


def test_the_commands_quote_names_as_postgresql_wants_them() -> None:
    made = report(
        attempt(),
        name="it's",
        kept=[facts.Kept(attempt=2, relation='"public"."seats"', side="old", saved=9, restored=0)],
        kept_tables=[facts.KeptTable(attempt=2, name='it"s/public.t', of='"public"."t"', bytes=10)],
    )
    commands = [each.command for each in fallbacks(made) if each.command]
    assert commands == [
        "SELECT relation, key, kept FROM pgduet_archive.value WHERE migration = 'it''s' AND attempt = 2 AND side = 'old';",
        'SELECT * FROM pgduet_archive."it""s/public.t";',
    ]


def test_later_migrations_that_stand_in_the_way_are_named() -> None:
    made = report(attempt(state="running", phase=Phase.SOAK, ended_at=None), builds_on_it=["next-one"])
    assert "Later migrations build on it and go first: next-one." in [each.text for each in fallbacks(made)]


# What was learnt


def test_lessons_are_the_extremes_that_were_measured() -> None:
    told = {each.kind: each.text for each in lessons(report(attempt()))}
    assert told["lock_held"] == "The longest table lock was held for 4.2 ms (expand, ACCESS EXCLUSIVE on public.seats)."
    assert "640 ms in 3 tries" in told["lock_wait"]
    assert told["slowest_phase"] == "The phase that took longest was soak: 1 min 40 s."
    assert told["longest_gate"] == "The longest wait at a gate was before soak: 3.0 s."
    assert (
        told["backfill_rate"]
        == "Attempt 1: the backfill wrote 500 rows a second, in 4.0 times the time that was estimated."
    )
    assert told["drift"] == "No drift was seen in 1 full comparison."


def test_drift_that_was_seen_is_a_lesson_even_when_repaired() -> None:
    seen = attempt(comparisons=[compared(1, mismatches=3), compared(2, repaired=3)], comparisons_total=2)
    told = {each.kind: each.text for each in lessons(report(seen))}
    assert told["drift"] == "Drift was seen: up to 3 rows differed, 3 were repaired."


def test_nothing_measured_is_no_lesson() -> None:
    bare = attempt(phases=[], locks=[], filled=None, comparisons=[], comparisons_total=0)
    assert lessons(report(bare)) == []


# The calendar


@pytest.mark.parametrize(
    ("changes", "by", "days"),
    [
        ({}, "done", 5),
        ({"ended_at": at(0) + timedelta(days=7)}, "done", -2),
        ({"state": "running", "phase": Phase.SOAK, "ended_at": None}, "done", 5),
    ],
    ids=["before", "late", "to come"],
)
def test_a_milestone_is_set_beside_the_end(changes: dict[str, Any], by: str, days: int) -> None:
    [found] = milestones(report(attempt(milestones={"all clients moved": "2026-12-01"}, **changes)))
    assert (found.measured_by, found.days) == (by, days)
    assert (found.at is None) == ("state" in changes)


def test_a_milestone_that_names_a_phase_is_measured_by_that_phase() -> None:
    found = milestones(
        report(
            attempt(
                milestones={"Soak begins": "2026-11-25", "cutover in the night": "2026-11-30"}, authority=Authority.OLD
            )
        )
    )
    assert [(each.measured_by, each.at, each.days) for each in found] == [
        ("entered soak", at(5), -1),
        ("entered cutover", None, 4),
    ]
