"""The demo's verdict: the closing table when all of it held, else everything that did not."""

from datetime import datetime

from rich.console import Console

from pgduet.local.doors import Flight
from pgduet.local.measures import BEFORE, MIN_SAMPLES, ClientError, GroupReport, Latency, Recorder, Report, summed
from pgduet.local.verdict import Verdict, closing, stalls


def group(**over: object) -> GroupReport:
    phases = {
        BEFORE: Latency(count=500, p50=1, p99=2.0, longest=9),
        "backfill": Latency(count=MIN_SAMPLES, p50=1, p99=2.9, longest=31),
        "expand": Latency(count=MIN_SAMPLES - 1, p50=1, p99=30.0, longest=30),
    }
    given: dict[str, object] = {"transactions": 41_208, "through_new": 3, "acknowledged": 9_310, "phases": phases}
    return GroupReport.model_validate(given | over)


def judged(*errors: ClientError, **over: object) -> Verdict:
    verdict = Verdict(archived=1204, restored=1204, flights=336_776, audit_entries=57)
    verdict.judge_traffic(Report(groups={"old": group(), "new": group(**over)}, errors=list(errors)))
    return verdict


def page(verdict: Verdict) -> str:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(closing(verdict))
    return captured.get()


def error(sqlstate: str) -> ClientError:
    return ClientError(
        client="billing", group="old", phase="contract", statement="commit", sqlstate=sqlstate, text="no"
    )


def test_the_closing_table_says_all_of_it() -> None:
    shown = page(judged())
    for words in ("41,208", "all 9,310", "2.0 / 2.9 ms", "31 ms", "0 rows lost, 1,204 new-only values archived"):
        assert words in shown
    assert "336,776 flights migrated · parity exact · audit log verifies (57 entries)" in shown


def test_a_phase_with_few_statements_counts_for_the_stall_but_has_no_p99() -> None:
    assert group().worst_ms == 2.9
    assert group().stall_ms == 31


def test_a_client_error_fails_the_demo_and_is_named_with_its_phase() -> None:
    verdict = judged(error("40P01"))
    assert not verdict.holds
    shown = page(verdict)
    assert "client error of billing in contract, commit: 40P01: no" in shown
    assert "flights migrated" not in shown


def test_a_wrong_answer_is_an_error_without_sqlstate() -> None:
    assert "commit: wrong answer: no" in page(judged(error("")))


def test_many_errors_are_counted() -> None:
    assert "2 more client errors" in page(judged(*[error("57014")] * 7))


def test_a_write_in_doubt_and_an_idle_side_fail_the_demo() -> None:
    shown = page(judged(in_doubt=1, through_new=0, acknowledged=0))
    for words in ("1 writes are in doubt", "new clients wrote nothing", "new clients never used the new version"):
        assert words in shown


def test_percentiles_are_of_the_nearest_rank() -> None:
    found = summed([float(number) for number in range(1, 201)])
    assert (found.count, found.p50, found.p99, found.longest) == (200, 101.0, 199.0, 200.0)
    assert summed([]).longest == 0.0


def test_the_recorder_keeps_the_slowest_and_says_what_was_its_own_delay() -> None:
    recorder = Recorder(clock_start=100.0)
    for number in range(40):
        recorder.took("old", "billing", "read", 100.0 + number, 100.0 + number + number / 1000)
    recorder.late(139.001, 139.030)
    slow = recorder.slow()
    assert [round(each.ms) for each in slow] == list(range(39, 19, -1))
    assert round(slow[0].own_ms) == 29
    assert slow[1].own_ms == 0
    report = Report(groups={"old": recorder.group("old"), "new": group()}, slowest=slow)
    assert "29 ms of it the client's own process" in stalls(report)


def test_a_report_survives_its_way_between_processes() -> None:
    rows = {1: Flight(datetime(2013, 1, 1), "N1", None, "gate"), 2: None}  # noqa: DTZ001  local time, as in the data
    report = Report(groups={"old": group(rows=rows), "new": group()})
    assert Report.model_validate(report.model_dump(mode="json")).rows == rows
