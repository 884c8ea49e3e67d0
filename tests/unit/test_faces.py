"""Every page names what a migration waits for and the next command, within 100 columns, in plain text."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.text import Text
from temporalio.exceptions import ApplicationError

from pgduet.cli.check_face import check_page, estimate_line
from pgduet.cli.error_face import error_text
from pgduet.cli.faces import backfill_line, example_line, migrations_table, one_line, status_page
from pgduet.cli.next_steps import next_commands
from pgduet.cli.progress import Pace
from pgduet.cli.session import Screen, console
from pgduet.cli.undoing import parity_page
from pgduet.cli.words import bar, clock, moment, short, span, times
from pgduet.describe import operation_line
from pgduet.errors import ActRefused, Place, PlanInvalid, ServerMissing, UnknownColumn
from pgduet.failures import error_from, error_from_facts
from pgduet.messages import (
    Answer,
    Backfill,
    CheckResult,
    Client,
    Parity,
    Reconciliation,
    ShadowResult,
    SliceResult,
    Status,
    Throttled,
    Timing,
    Traffic,
    WaitingFor,
)
from pgduet.observe import WorkerMissing
from pgduet.phases import Phase, State
from pgduet.plan.load import PlanErrors, parse_plan
from pgduet.slices import with_slices

NOW = datetime(2026, 3, 4, 14, 9, 23, tzinfo=UTC)
NAME = "flights-departure-time"
LIVE = [phase for phase in Phase if phase not in {Phase.DONE, Phase.ROLLED_BACK}]
ENDS = {Phase.DONE: State.DONE, Phase.ROLLED_BACK: State.ROLLED_BACK}


def status(phase: Phase = Phase.SHIFT, state: State = State.RUNNING, **more: Any) -> Status:
    base = {"name": NAME, "database": "flights", "workflow_id": f"migration/flights/{NAME}"}
    versions = {"from_version": "1", "to_version": "2"}
    return Status(**(base | versions | {"phase": phase, "state": ENDS.get(phase, state)} | more))


def waiting(detail: str, *commands: str) -> WaitingFor:
    return WaitingFor(kind="gate", detail=detail, since=NOW - timedelta(minutes=7), next_commands=list(commands))


def rendered(page: RenderableType, width: int = 100) -> str:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, markup=False).print(page)
    return file.getvalue()


def page(of: Status, width: int = 100) -> str:
    return rendered(status_page(of, now=NOW, width=width), width)


FULL = status(
    Phase.SHIFT,
    State.WAITING,
    read_percent=10,
    waiting_for=waiting("bake of the 10 % step, 432 s left", f"pgduet advance {NAME}"),
    traffic=Traffic(routers=6, reads_new=18_240, errors_new=0, old_ms=2.0, new_ms=2.1),
    shadow=ShadowResult(samples=1000, mismatches=0),
    parity=Parity(checked_at=NOW - timedelta(minutes=11), rows=336_776, mismatches=0),
    census=[
        Client(who="billing", version="1", side="old", via="role billing_v1", last_seen=NOW, sessions=14),
        Client(who="nightly-export", version="1", side="old", via="tables", last_seen=NOW - timedelta(hours=12)),
        Client(who="flights-api", version="2", side="new", via="router 2.3.0", last_seen=NOW, sessions=6),
    ],
    window_ends_at=NOW + timedelta(days=13, hours=23, minutes=5),
    approvals={"cutover": ["ada", "bob"]},
)


@pytest.mark.parametrize("phase", LIVE)
def test_a_waiting_migration_says_what_it_waits_for_and_which_command_moves_it_on(phase: Phase) -> None:
    shown = page(status(phase, State.WAITING, waiting_for=waiting("somebody to look", f"pgduet advance {NAME}")))
    assert "waits for   somebody to look (since " in shown
    assert f"next   pgduet advance {NAME}" in shown
    assert f"waiting · {phase.value}" in shown


@pytest.mark.parametrize("phase", list(Phase))
def test_at_every_phase_a_page_tells_what_it_waits_for_and_ends_with_a_command(phase: Phase) -> None:
    shown = page(status(phase))
    assert "waits for" in shown
    *_, last = [line for line in shown.splitlines() if line.strip()]
    assert "pgduet " in last


@pytest.mark.parametrize("phase", [phase for phase in LIVE if phase is not Phase.CONTRACT])
def test_before_contract_the_way_back_is_always_offered(phase: Phase) -> None:
    assert f"pgduet rollback {NAME}" in page(status(phase))


def test_from_contract_on_no_way_back_is_offered() -> None:
    assert "rollback" not in page(status(Phase.CONTRACT))
    assert "rollback" not in page(status(Phase.DONE))


def test_where_a_later_migration_has_taken_the_way_back_away_none_is_offered() -> None:
    for state in (State.RUNNING, State.PAUSED, State.FAILED):
        assert "rollback" not in page(status(Phase.SOAK, state, no_way_back="add-mood builds on it"))


def test_the_commands_name_the_database_where_it_had_to_be_named() -> None:
    shown = rendered(status_page(FULL, now=NOW, database="flights-eu"))
    assert f"next   pgduet advance {NAME} --database flights-eu" in shown
    assert f"pgduet rollback {NAME} --database flights-eu" in shown


def test_what_was_decided_lately_is_on_the_page_with_who_and_why() -> None:
    told = [
        f"2026-03-04 14:0{minute}:00 {what}"
        for minute, what in enumerate(("long ago", "b", "c", "pause by ada: lunch", "d"))
    ]
    shown = page(status(decisions=[*told, "2026-03-04 14:09:00 ignored: there is no signal `x`"]))
    assert "lately      2026-03-04 14:01:00 b" in shown
    assert "pause by ada: lunch" in shown
    assert not {"long ago", "ignored"} & set(shown.split()), shown


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_next_command(state: State) -> None:
    assert next_commands(status(Phase.BACKFILL, state))


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("of", [FULL, status(Phase.BACKFILL), status(Phase.ROLLED_BACK)])
def test_no_line_is_wider_than_the_terminal_or_100_columns(of: Status, width: int) -> None:
    assert max(map(len, page(of, width).splitlines())) <= min(width, 100)


def test_a_page_without_a_terminal_has_no_colour_codes(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(status_page(FULL, now=NOW))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert NAME in shown


def test_signs_tell_behind_here_and_ahead_without_colour() -> None:
    shown = page(FULL)
    assert "expand ✔" in shown
    assert "shadow ✔" in shown
    assert "shift ●10%" in shown
    assert "cutover ○" in shown


def test_the_page_tells_measurements_clients_and_overlap() -> None:
    shown = " ".join(page(FULL).split())
    assert "errors 0 of 18,240 reads · p50 2.1 ms new, 2.0 ms old · shadow 0 of 1,000 differ · drift 0" in shown
    assert "336,776 old = 336,776 new" in shown
    assert "old: billing (role billing_v1, 14 sessions), nightly-export (tables, last seen " in shown
    assert "new: flights-api (router 2.3.0, 6 sessions)" in shown
    assert "13 d 23 h left · rollback is lossless until contract" in shown
    assert "cutover: ada, bob" in shown


def test_what_routers_measure_and_what_we_do_are_told_apart() -> None:
    both = Traffic(routers=1, reads_new=87, old_ms=0.3, new_ms=0.2, p50_old_ms=0.7, p50_new_ms=11.6)
    shown = " ".join(page(status(Phase.SHIFT, traffic=both)).split())
    assert "routers' p50 11.6 ms new, 0.7 ms old · the probe's 0.2 ms new, 0.3 ms old" in shown


def test_drift_is_shown_with_the_keys_that_differ() -> None:
    examples = [{"relation": "public.flights", "key": "17", "kind": "missing"}]
    parity = Parity(checked_at=NOW, rows=10, mismatches=1, violations=2, repaired=3, fresh=False, examples=examples)
    shown = page(status(Phase.SOAK, parity=parity))
    assert "1 of 10 rows differ · 2 rows against the new constraints · 3 repaired" in shown
    assert "stale" in shown
    assert "public.flights 17 (missing)" in shown
    assert example_line({"key": {"id": 5, "part": "a"}}) == "id=5, part=a"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "every 1 h"),
        (
            {"last_at": NOW - timedelta(minutes=10), "next_at": NOW + timedelta(minutes=50)},
            "every 1 h · last {} · next {}",
        ),
        ({"last_at": NOW, "running": True, "next_at": NOW}, "every 1 h · last {}, under way · next {}"),
        ({"paused": "the DBA looks into it"}, "every 1 h · not now: the DBA looks into it"),
        ({"failing": "an aggregate cannot be asked"}, "every 1 h · the last one failed: an aggregate cannot be asked"),
        (
            {"why_not": "permission denied"},
            "in soak only, and nothing before: there is no schedule here (permission denied)",
        ),
    ],
)
def test_when_both_versions_are_compared_is_told_or_why_not(more: dict[str, Any], told: str) -> None:
    known = Reconciliation(every_s=3600, schedule_id=f"reconcile/flights/{NAME}", **more)
    shown = " ".join(page(status(Phase.SHIFT, reconciliation=known)).split())
    times = [f"{more[name].astimezone():%H:%M:%S}" for name in ("last_at", "next_at") if name in more]
    assert f"compares {told.format(*times)}" in shown


def test_drift_beyond_what_the_plan_bears_has_a_line_of_its_own() -> None:
    shown = " ".join(page(status(Phase.SOAK, drift="3 of 10 rows differ")).split())
    assert "drift beyond what the plan bears" in shown


def test_a_failed_migration_shows_its_failure_where_it_stopped() -> None:
    failure = "PD-2002\n  7 rows cannot be mapped\n  Correct them."
    shown = page(status(Phase.BACKFILL, State.FAILED, failure=failure))
    assert "failed      PD-2002" in shown
    assert "backfill ✘" in shown
    assert "pgduet start PLAN" in shown


def test_a_rollback_tells_whether_the_old_version_is_back_in_charge() -> None:
    assert "the old version takes over" in page(status(Phase.SOAK, State.ROLLING_BACK, safe=False))
    shown = page(status(Phase.SOAK, State.ROLLING_BACK))
    assert "being withdrawn" in shown
    assert f"pgduet wait {NAME} --phase rolled_back" in shown


def test_a_rolled_back_migration_marks_the_phases_that_were_undone() -> None:
    timings = [Timing(phase=Phase.EXPAND, started_at=NOW)]
    shown = page(status(Phase.ROLLED_BACK, timings=timings, archived=1204))
    assert "expand ↩" in shown
    assert "soak ○" in shown
    assert "1,204 values archived" in shown


def test_a_run_that_adopted_another_one_marks_the_phases_before_it_too() -> None:
    timings = [Timing(phase=Phase.VERIFY, started_at=NOW), Timing(phase=Phase.ROLLED_BACK, started_at=NOW)]
    shown = page(status(Phase.ROLLED_BACK, timings=timings))
    assert "expand ↩  dual_write ↩  backfill ↩  verify ↩  shadow ○" in shown


def test_what_rolls_back_is_not_told_until_when_it_could() -> None:
    assert "rollback is lossless" in page(status(Phase.SOAK))
    assert "rollback is lossless" not in page(status(Phase.SOAK, State.ROLLING_BACK))


def test_rows_that_differ_bring_the_command_that_repairs_them() -> None:
    drift = Parity(checked_at=NOW, rows=10, mismatches=2, examples=[{"key": {"id": 5}}])
    command = f"pgduet verify {NAME} --repair"
    assert command in page(status(Phase.SOAK, State.WAITING, parity=drift))
    assert command not in page(status(Phase.SOAK, State.WAITING, parity=Parity(checked_at=NOW, rows=10, mismatches=0)))
    answer = Answer(message="2 of 10 rows differ, 0 repaired", phase=Phase.SOAK)
    shown = rendered(parity_page(NAME, answer, drift))
    assert shown.count("differ") == 1
    assert shown.rstrip().splitlines()[-1].startswith(f"next  {command}")


def test_sql_that_is_printed_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    comment = "-- " + "word " * 60 + "end"
    Screen(as_json=False).show(Text(comment), {})
    assert capsys.readouterr().out == comment + "\n"


def test_during_backfill_the_rows_become_a_bar_with_rate_time_left_and_pace() -> None:
    filled = Backfill(
        rows_done=238_100,
        rows_total=336_776,
        percent=71,
        rows_per_second=212_000,
        eta_s=1,
        throttled_by="replica lag 6 s",
    )
    line = backfill_line(status(Phase.BACKFILL, backfill=filled))
    assert line == "▇▇▇▇▇▇▇▁▁▁ 71 % · 238,100 of 336,776 · 212 k rows/s · 0:00:01 left · pace: replica lag 6 s"
    assert line in page(status(Phase.BACKFILL, backfill=filled)).replace("\n" + " " * 14, " ")


TOLD = "replica lag 6 s (limit 5 s): paris"


def hour(hours: int) -> str:
    return moment(NOW + timedelta(hours=hours), NOW)


def throttled(told: str, **what: Any) -> Backfill:
    return Backfill(rows_done=1, rows_total=9, throttled_by=told, throttle=Throttled(reason=told, **what))


@pytest.mark.parametrize(
    ("throttle", "told"),
    [
        ({"kind": "replica_lag", "since": NOW, "until": NOW + timedelta(hours=1)},
         f"{TOLD}, pausing since {hour(0)}; goes on at latest {hour(1)} at a quarter of the rate"),
        ({"kind": "slot_at_risk", "since": NOW}, f"{TOLD}, pausing since {hour(0)}, until it is over"),
        ({"kind": "replica_lag", "since": NOW, "rate": 0.25}, f"{TOLD}, going on at 25 % of the rate since {hour(0)}"),
        ({"kind": "replica_lag", "rate": 0.4}, f"{TOLD}, going on at 40 % of the rate"),
        ({"kind": "blocked_clients", "rate": 1.0}, TOLD),
        ({"kind": "window", "until": NOW}, TOLD),
        ({"kind": "window", "since": NOW, "until": NOW}, f"{TOLD}, since {hour(0)}"),
    ],
)  # fmt: skip
def test_what_holds_or_slows_it_is_told_with_since_and_until(throttle: dict[str, Any], told: str) -> None:
    filled = throttled(TOLD, **throttle)
    assert backfill_line(status(Phase.BACKFILL, backfill=filled), NOW).endswith(f"pace: {told}")


@pytest.mark.parametrize(
    ("throttle", "told", "command"),
    [
        ({"kind": "window", "until": NOW}, TOLD, "pgduet throttle NAME --window none"),
        ({"kind": "replica_lag", "since": NOW}, f"{TOLD}, pausing since {hour(0)}", "pgduet throttle NAME --help"),
        ({"kind": "probe", "since": NOW}, f"{TOLD}, pausing since {hour(0)}", "pgduet status NAME --watch"),
    ],
)
def test_a_backfill_that_stands_still_says_what_it_waits_for_and_how_it_goes_on(
    throttle: dict[str, Any], told: str, command: str
) -> None:
    held = SliceResult(cursor_block=5, finished=False, rows_total=10, throttled_by=TOLD,
                       throttle=Throttled(reason=TOLD, **throttle))  # fmt: skip
    works, done = (SliceResult(cursor_block=5, finished=finished, rows_total=10) for finished in (False, True))
    began = status(Phase.BACKFILL)
    shown = page(with_slices(began, [done, held], now=NOW))
    assert f"waits for   {told}" in shown
    assert f"next   {command.replace('NAME', NAME)}" in shown
    assert (shown.count(TOLD), "slow down" in shown) == (1, False)
    shown = page(with_slices(began, [works, held], now=NOW))
    assert "waits for   nothing: it is filling the rows" in shown
    assert f"pace: {told}" in " ".join(shown.split())


def test_what_held_a_backfill_before_it_was_paused_is_not_told_as_if_it_still_did() -> None:
    paused = status(Phase.BACKFILL, State.PAUSED, backfill=throttled("outside its window", kind="window"))
    assert "outside its window" not in page(paused)


def test_what_holds_a_comparison_is_what_the_migration_waits_for_or_is_told_beside_it() -> None:
    window = Throttled(kind="window", reason="outside its window", since=NOW)
    held = status(Phase.VERIFY, comparison=window)
    assert f"waits for   outside its window, since {hour(0)}" in page(held)
    assert f"pgduet throttle {NAME} --window none" in page(held)
    asked = status(Phase.VERIFY, State.WAITING, waiting_for=waiting("a gate"), comparison=window)
    assert f"compares    now: outside its window, since {hour(0)}" in page(asked)
    slowed = status(Phase.VERIFY, comparison=Throttled(kind="probe", reason="probe queue 9", rate=0.4))
    assert "compares    now: probe queue 9, going on at 40 % of the rate" in page(slowed)
    paused = status(Phase.VERIFY, State.PAUSED, comparison=Throttled(kind="paused", reason="paused"))
    assert "now:" not in page(paused)


def test_the_table_tells_of_a_closed_window() -> None:
    closed = status(Phase.BACKFILL, backfill=throttled("outside its window", kind="window"))
    assert "outside its window" in rendered(migrations_table([closed]))


def test_an_operators_limits_and_what_is_not_seen_have_lines_of_their_own() -> None:
    window = {"from": "22:00", "to": "05:00", "timezone": "Europe/Berlin", "days": ["mon"]}
    filled = Backfill(rows_done=1, rows_total=9, limits={"pause_ms": 50.0, "window": window}, unmeasured="replica lag")
    shown = " ".join(page(status(Phase.BACKFILL, backfill=filled)).split())
    assert "limits pause_ms = 50, window = 22:00-05:00 Europe/Berlin mon (by an operator, over the plan's)" in shown
    assert "not seen replica lag" in shown


def test_what_a_slice_no_longer_says_is_over() -> None:
    before = status(Phase.BACKFILL, backfill=throttled("replica lag 6 s", kind="replica_lag"))
    filled = with_slices(before, [SliceResult(cursor_block=5, finished=False, rows_total=10)], now=NOW).backfill
    assert (filled.throttled_by, filled.throttle) == (None, None)


def test_pace_measures_the_rate_over_the_time_of_watching_and_never_goes_back() -> None:
    pace = Pace()
    before = status(Phase.BACKFILL, backfill=Backfill(rows_done=1000, rows_total=9000, percent=11))
    after = status(Phase.BACKFILL, backfill=Backfill(rows_done=5000, rows_total=9000, percent=55))
    assert pace.applied(before, 0.0).backfill.rows_per_second == 0
    assert pace.applied(after, 2.0).backfill.rows_per_second == 2000
    again = pace.applied(before, 2.5).backfill
    assert (again.rows_done, again.percent) == (5000, 55)
    assert again.eta_s == pytest.approx(2.5)


def test_slices_tell_how_far_the_backfill_is() -> None:
    began = status(Phase.BACKFILL, timings=[Timing(phase=Phase.BACKFILL, started_at=NOW - timedelta(seconds=10))])
    began.backfill.rows_total = 1000
    slices = [
        SliceResult(cursor_block=5, finished=True, rows_total=500, percent=100),
        SliceResult(cursor_block=5, finished=False, rows=10, rows_total=100, percent=20, throttled_by="row locks"),
    ]
    filled = with_slices(began, slices, now=NOW).backfill
    assert (filled.rows_done, filled.percent, filled.throttled_by) == (600, 60, "row locks")
    assert filled.rows_per_second == pytest.approx(60)
    assert filled.eta_s == pytest.approx(10 * 40 / 60)
    assert with_slices(began, [], now=NOW) is began


def test_the_table_has_a_line_for_each_migration_and_an_empty_one_says_how_to_begin() -> None:
    shown = rendered(migrations_table([FULL, status(Phase.DONE, name="other")], now=NOW))
    assert "bake of the 10 % step" in shown
    assert "other" in shown
    assert "next  pgduet start PLAN" in rendered(migrations_table([]))


def test_the_table_says_that_no_worker_answers() -> None:
    shown = rendered(migrations_table([FULL], now=NOW, missing=WorkerMissing("pgduet")))
    assert "no worker answers on task queue `pgduet`: this is what Temporal heard last" in shown
    assert shown.endswith("next  pgduet worker\n")


def test_one_line_tells_the_wait_or_the_doing() -> None:
    assert one_line(FULL).endswith("waiting · shift 10 % · waits for bake of the 10 % step, 432 s left")
    assert "filling the rows" in one_line(status(Phase.BACKFILL))
    assert "7 of 9" in one_line(status(Phase.BACKFILL, backfill=Backfill(rows_done=7, rows_total=9)))
    assert one_line(status(Phase.BACKFILL, State.ROLLING_BACK)) == f"{NAME}  rolling back · backfill"
    assert one_line(status(Phase.DONE)) == f"{NAME}  done"
    assert one_line(status(Phase.EXPAND, State.FAILED, failure="PD-1\n  why")).endswith("why")


def test_text_from_outside_is_shown_as_it_is_and_not_as_markup() -> None:
    shown = page(status(state=State.WAITING, waiting_for=waiting("lock held by [red]etl[/red] [x]")))
    assert "[red]etl[/red] [x]" in shown


def test_the_json_has_the_documented_keys() -> None:
    facts = json.loads(FULL.model_dump_json())
    documented = {
        "name", "database", "workflow_id", "phase", "state", "waiting_for", "authority", "read_percent", "census",
        "backfill", "parity", "window_ends_at", "plan_checksum", "audit_head",
    }  # fmt: skip
    assert documented <= facts.keys()
    assert {"kind", "detail", "since", "next_commands"} <= facts["waiting_for"].keys()
    assert {"who", "version", "via", "last_seen"} <= facts["census"][0].keys()
    backfill = {"rows_done", "rows_total", "percent", "rows_per_second", "eta_s", "throttled_by"}
    assert backfill <= facts["backfill"].keys()
    assert {"checked_at", "rows", "mismatches", "fresh"} <= facts["parity"].keys()


# Errors


def test_a_refusal_has_code_place_spot_reason_and_page() -> None:
    place = Place("operations[0].replace_columns.columns[0].up", "plan.yaml", 14, 13)
    error = UnknownColumn('column "dya" does not exist', place=place, snippet="(dya)\n ^^^", hint='Did you mean "day"?')
    assert error_text(error).plain.splitlines() == [
        "refused  PD-1042  plan.yaml:14:13  operations[0].replace_columns.columns[0].up",
        "  (dya)",
        "   ^^^",
        '  column "dya" does not exist',
        '  Did you mean "day"?',
        "  Nothing was changed. See docs: reference/errors#pd-1042",
    ]


def test_several_errors_of_a_plan_are_shown_one_after_another() -> None:
    shown = error_text(PlanErrors([PlanInvalid("one"), PlanInvalid("two")])).plain
    assert shown.count("refused  PD-1001") == 2
    assert shown.count("Nothing was changed.") == 1


def test_a_missing_server_failed_and_was_not_refused() -> None:
    assert error_text(ServerMissing("gone")).plain.startswith("failed  PD-4001")


def test_an_error_comes_back_from_temporal_as_it_was_raised() -> None:
    error = UnknownColumn("no such column", place=Place("operations[0]"), snippet="x", hint="Look.")
    inner = ApplicationError(error.render(), error.facts(), type="UnknownColumn")
    outer = RuntimeError("Workflow execution failed")
    outer.__cause__ = inner
    back = error_from(outer)
    assert type(back) is UnknownColumn
    assert back.facts() == error.facts()


def test_several_errors_come_back_as_several() -> None:
    errors = PlanErrors([UnknownColumn("one", place=Place("a")), PlanInvalid("two")])
    back = error_from_facts(errors.facts(), kind="PlanErrors")
    assert isinstance(back, PlanErrors)
    assert [type(each) for each in back.errors] == [UnknownColumn, PlanInvalid]


@pytest.mark.parametrize(
    ("failure", "kind", "message", "hint"),
    [
        (ApplicationError("not now", type="ActRefused"), ActRefused, "not now", None),
        (ApplicationError("PD-2004\n  not now\n  Wait.", type="ActRefused"), ActRefused, "not now", "Wait."),
    ],
)
def test_an_error_without_fields_keeps_its_class_and_text(
    failure: ApplicationError, kind: type, message: str, hint: str | None
) -> None:
    back = error_from(failure)
    assert type(back) is kind
    assert (back.message, back.hint) == (message, hint)


def test_a_foreign_error_is_told_by_its_text() -> None:
    assert error_from(ApplicationError("boom", type="ValueError")).message == "boom"
    assert error_from(RuntimeError("lost")).message == "lost"


# The page of `check`, and words

PLAN = parse_plan(
    {
        "name": "p",
        "database": "flights",
        "version": {"from": "1", "to": "2"},
        "operations": [{"add_column": {"table": "public.flights", "column": {"name": "gate", "type": "text"}}}],
    }
)


def test_a_checked_plan_shows_operations_hazards_and_estimate() -> None:
    hazards = [
        {"id": "PD-H07", "condition": "SELECT *", "effect": "fails once", "cure": "name columns", "where": "public.t"}
    ]
    live = CheckResult(checksum="x", hazards=hazards, estimate={"backfill_s": 3.0, "wal_mb": 120, "pages_now": 12})
    shown = rendered(check_page(PLAN, "9f3c" * 16, live))
    assert shown.startswith("plan ok, 1 hazard, none blocking   flights 1 → 2   checksum 9f3c")
    assert "add_column public.flights: gate text" in shown
    assert "hazard   PD-H07  SELECT *: fails once (public.t)  name columns" in shown
    assert "backfill 3 s · wal 120 MB · pages now 12" in shown


def test_a_static_check_says_that_it_saw_the_file_only() -> None:
    assert rendered(check_page(PLAN, "9", None)).startswith("plan ok, by the file alone")


def test_the_next_command_after_a_check_names_the_file() -> None:
    assert rendered(check_page(PLAN, "9", CheckResult(checksum="9"), "plans/a b.yaml")).endswith(
        "next  pgduet start 'plans/a b.yaml'\n"
    )


def test_estimates_show_their_units() -> None:
    told = estimate_line({"a_ms": 2, "b_bytes": 5e6, "locks": ["x", "y"], "none": None, "d": True, "e_s": 0.25})
    assert told == "a 2 ms · b 5 MB · locks x, y · d True · e under 1 s"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (4, "4 s"), (432, "7 min 12 s"), (86_160, "23 h 56 min"), (1_206_000, "13 d 23 h"), (3600, "1 h")],
)
def test_lengths_of_time_have_two_units_at_most(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_counts_are_short_and_bars_have_a_fixed_width() -> None:
    assert [short(870), short(212_400), short(1_234_567)] == ["870", "212 k", "1.2 M"]
    assert [bar(0), bar(50), bar(100), bar(250)] == ["▁" * 10, "▇" * 5 + "▁" * 5, "▇" * 10, "▇" * 10]
    assert clock(3725) == "1:02:05"
    assert [times(1, "session"), times(1400, "row")] == ["1 session", "1,400 rows"]


def test_operations_on_constraints_are_told_by_the_constraints_name() -> None:
    base = {"name": "p", "database": "flights", "version": {"from": "1", "to": "2"}}
    on = {"table": "public.flights", "name": "early"}
    operations = [
        {"create_constraint": on | {"type": "unique", "columns": ["day", "gate"]}},
        {"create_constraint": on | {"type": "check", "check": "gate > 0"}},
        {"rename_constraint": on | {"to": "late"}},
        {"drop_constraint": on},
    ]
    assert [operation_line(parse_plan(base | {"operations": [each]}).operations[0]) for each in operations] == [
        "create_constraint public.flights: early (unique: day, gate)",
        "create_constraint public.flights: early (check)",
        "rename_constraint public.flights: early → late",
        "drop_constraint public.flights: early",
    ]
