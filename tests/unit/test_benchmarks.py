"""A benchmark can fail: goals are judged from what was measured, and the page says what the results say."""

import json
from pathlib import Path

import pytest

from benchmarks.common import options, table
from benchmarks.common.alternate import alternating
from benchmarks.common.figures import Against, Figure, Goal, Result

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
