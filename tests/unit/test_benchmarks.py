"""A benchmark can fail: goals are judged from what was measured, and the page says what the results say."""

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.common import options, peers, pgbench, table
from benchmarks.common.alternate import alternating
from benchmarks.common.figures import Against, Figure, Goal, Result
from benchmarks.common.measures import Span, Taken, Waits, by_phase

PAGE = options.ROOT / "docs" / "explanation" / "benchmarks.md"
KEYS = ["metric", "subject", "value", "unit", "ratio_to", "ratio", "goal", "met"]


def figure(value: float | None, other: float | None, goal: Goal) -> Figure:
    return Figure.of("rate", "pgduet", value, "rows/s", against=Against("pgroll", other), goal=goal)


@pytest.mark.parametrize(
    ("value", "other", "goal", "met"),
    [
        (500_000, 100_000, Goal("ratio", "≥", 5), True),
        (499_999, 100_000, Goal("ratio", "≥", 5), False),
        (1.6, 1.0, Goal("ratio", "≤", 1.6), True),
        (1.601, 1.0, Goal("ratio", "≤", 1.6), False),
        (150, None, Goal("value", "≤", 150), True),
        (151, None, Goal("value", "≤", 150), False),
        (500_000, None, Goal("ratio", "≥", 5), None),
        (None, 100_000, Goal("ratio", "≥", 5), None),
    ],
)
def test_a_goal_is_judged_by_what_was_measured(
    value: float | None,
    other: float | None,
    goal: Goal,
    met: bool | None,  # noqa: FBT001  (a parameter of the test)
) -> None:
    assert figure(value, other, goal).met is met


def test_a_figure_that_rounds_to_its_goal_is_missed_all_the_same() -> None:
    missed = figure(4.99999, 1.0, Goal("ratio", "≥", 5))
    assert (missed.ratio, missed.met) == (5.0, False)


def test_what_was_missed_or_not_judged_is_named_and_stands_in_the_table(tmp_path: Path) -> None:
    slow, unknown = figure(1, 1, Goal("ratio", "≥", 5)), figure(1, None, Goal("ratio", "≥", 5))
    result = Result(name="backfill", versions={}, figures=[slow, unknown, figure(5, 1, Goal("ratio", "≥", 5))])
    assert result.missed == [slow, unknown]
    assert [line.split("|")[-2].strip() for line in table.table(result).splitlines()[2:]] == [
        "**missed**",
        "**not judged**",
        "yes",
    ]
    kept = json.loads(result.write(tmp_path).read_text())
    assert list(kept) == ["name", "versions", "figures"]
    assert [list(each) for each in kept["figures"]] == [KEYS] * 3
    assert Result.read(tmp_path / "backfill.json") == result


def test_a_missed_goal_is_the_exit_code_s_and_one_that_cannot_be_judged_is_only_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    slow, unknown = figure(1, 1, Goal("ratio", "≥", 5)), figure(1, None, Goal("ratio", "≥", 5))
    assert command.verdict(Result(name="one", versions={}, figures=[slow])) == 1
    assert command.verdict(Result(name="one", versions={}, figures=[unknown])) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["missed", "not judged"]


def test_a_library_that_is_not_there_is_skipped_and_that_is_said() -> None:
    said: list[str] = []
    missing = peers.Library("rival", "no-such-distribution-as-this")
    assert missing.find(said.append) is None
    assert missing.find(said.append, ("rival",)) is None
    assert peers.OPENFEATURE.find(said.append, ("rival",))
    assert said == [
        "no-such-distribution-as-this is not installed and is skipped; `make setup` installs it",
        "rival is left out, as asked",
    ]


def test_the_worst_phase_stands_for_all_but_a_missed_one_is_never_folded_away() -> None:
    goal = Goal("value", "≤", 150)
    stalls = {"expand": 20, "backfill": 60, "cutover": 170, "soak": 40}
    figures = [
        Figure.of(f"longest stall in {phase}, 9 rows", "pgduet", ms, "ms", goal=goal) for phase, ms in stalls.items()
    ]
    lines = table.table(Result(name="foreground", versions={}, figures=figures)).splitlines()[2:]
    assert [(line.split("|")[1].strip(), line.split("|")[-2].strip()) for line in lines] == [
        ("longest stall, worst of 3 phases (backfill), 9 rows", "yes"),
        ("longest stall in cutover, 9 rows", "**missed**"),
    ]


def test_transactions_are_told_apart_by_phase_and_our_own_moments_are_no_waits() -> None:
    phases = [Span("expand", 0, 10), Span("backfill", 10, 20)]
    taken = [
        Taken("old", 0, "select", at=1.0, ms=5, lag_ms=2),
        Taken("old", 0, "select", at=10.5, ms=900, lag_ms=100),
        Taken("old", 1, "select", at=15.0, ms=0, failed=True),
        Taken("new", 0, "select", at=12.0, ms=7),
    ]
    found = by_phase(taken, phases)
    assert found["expand", "old"] == Waits(count=1, p99_ms=5, p99_sent_ms=3, longest_ms=3)
    assert found["backfill", "old"] == Waits(count=2, p99_ms=900, p99_sent_ms=800, longest_ms=800, failed=1)
    assert found["backfill", "new"] == Waits(count=1, p99_ms=7, p99_sent_ms=7, longest_ms=7)
    assert by_phase(taken, phases, [Span("ours", 9.9, 10.1)])["backfill", "old"] == Waits(2, 0.0, 0.0, 0.0, failed=1)


SAID = """
pgbench: error: client 3 script 0 aborted in command 1 query 0: ERROR:  new row violates check constraint "c"
pgbench: error: client 1 script 2 aborted in command 1 query 0: FATAL:  terminating connection due to administrator command
pgbench: error: client 2 aborted in command 1 (SQL) of script 1; perhaps the backend died while processing
"""


@pytest.mark.parametrize(("ended", "clients"), [(True, [3]), (False, [3, 1, 2])])
def test_a_client_that_we_ended_is_no_error_and_any_other_is(ended: bool, clients: list[int]) -> None:  # noqa: FBT001
    assert [each.client for each in pgbench.aborted(SAID, ended=ended)] == clients


def test_the_log_of_pgbench_is_read_as_it_writes_it(tmp_path: Path) -> None:
    (tmp_path / "log.7").write_text("0 1 4500 2 1700000001 500000 1500\n1 1 serialization 0 1700000000 0 0\n")
    assert list(pgbench.logged(tmp_path / "log", "old")) == [
        Taken("old", 1, "name", at=1_700_000_000.0, ms=0.0, failed=True),
        Taken("old", 0, "select", at=1_700_000_001.5, ms=4.5, lag_ms=1.5),
    ]


def test_the_page_says_what_the_results_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert table.filled(page, table.read_all(options.RESULTS)) == page, "run `make bench-table`"


def test_small_sizes_never_overwrite_real_results() -> None:
    assert options.parse(["backfill", "--quick"], ["backfill"]).results == options.QUICK_RESULTS
    assert options.parse(["backfill"], ["backfill"]).results == options.RESULTS


async def test_subjects_take_turns() -> None:
    said: list[str] = []

    async def measure(name: str) -> str:
        said.append(name)
        return name

    found = await alternating({name: lambda name=name: measure(name) for name in "abc"}, 2)
    assert "".join(said) == "abcbca"
    assert found == {name: [name] * 2 for name in "abc"}
