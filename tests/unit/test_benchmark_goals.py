"""Each benchmark misses its goal when what it measured is not good enough, and says for what."""

from functools import partial

import pytest

from benchmarks import (
    backfill,
    ddl_lock,
    foreground,
    history,
    ledger,
    parity,
    resume,
    rollback,
    routing,
    shadow_copy,
    write_amplification,
)
from benchmarks.common import decisions
from benchmarks.common.figures import Figure
from benchmarks.common.followers import TASKS, THREADS, Followers
from benchmarks.common.journeys import Passage
from benchmarks.common.measures import Span, Taken
from pgduet.local.measures import Latency


def metric(words: str, rows: int | None = None) -> str:
    return words if rows is None else f"{words}, {rows:,} rows"


def missed(figures: list[Figure]) -> list[tuple[str, str | None]]:
    return [(figure.metric, figure.ratio_to) for figure in figures if figure.met is False]


def judged(figures: list[Figure]) -> int:
    return sum(figure.met is not None for figure in figures)


@pytest.mark.parametrize(
    ("rows", "phase_s", "whole_s", "found"),
    [
        (300_000, 1.0, 2.0, []),
        (300_000, 1.2, 2.0, [("backfill, the phase alone, 300,000 rows", "pgroll")]),
        (1_000_000, 1.0, 2.0, []),
        (1_000_000, 1.0, 2.6, [("backfill, start to end, 1,000,000 rows", "plain UPDATE")]),
    ],
)
def test_backfill(rows: int, phase_s: float, whole_s: float, found: list[tuple[str, str]]) -> None:
    took = {
        "pgduet": [backfill.Took(whole_s, phase_s, 100, 120)],
        "pgroll": [backfill.Took(9.0 if rows < backfill.LARGE else 14.0)],
        "reshape": [backfill.Took(10.0)],
        "plain UPDATE": [backfill.Took(3.0)],
    }
    figures = backfill.figures_of(metric, rows, took)
    assert missed(figures) == found
    assert judged(figures) == 2 + (rows >= backfill.LARGE)


def test_a_rate_that_falls_at_ten_million_rows_is_missed() -> None:
    rates = {1_000_000: 400_000.0, 10_000_000: 300_000.0}
    assert missed(backfill.scale(metric, rates)) == [("backfill, start to end, 10,000,000 rows", "1,000,000 rows")]
    assert missed(backfill.scale(metric, {**rates, 10_000_000: 330_000.0})) == []


def test_write_amplification() -> None:
    bulk, single = write_amplification.BULK, write_amplification.SINGLE
    pair = write_amplification.Pair
    slow = {
        ("in soak", bulk): pair([1.0, 1.0, 9.0], [1.5, 1.7, 1.7]),
        ("in soak", single): pair([100.0], [94.0]),
        ("once published", bulk): pair([1.0], [1.6]),
        ("once published", single): pair([100.0], [95.0]),
    }
    figures = write_amplification.figures_of(metric, {"pgduet": [slow], "pgroll": [slow]})
    assert missed(figures) == [
        (f"{bulk}, in soak", "without a migration"),
        (f"{single}, in soak", "without a migration"),
    ]
    assert judged(figures) == 4


def test_ddl_lock() -> None:
    met = {
        "plain ALTER TABLE": ddl_lock.Met(19_000),
        "pgduet, expand": ddl_lock.Met(99),
        "pgduet, cutover": ddl_lock.Met(101, 1),
    }
    figures = ddl_lock.figures_of(metric, {"autovacuum": met})
    assert [(figure.metric, figure.subject) for figure in figures if figure.met is False] == [
        ("longest wait of a short query, autovacuum", "pgduet, cutover"),
        ("client errors, autovacuum", "pgduet, cutover"),
    ]


def test_resume() -> None:
    good, bad = resume.Killed(1, 900, 5.0, 7.0, 0), resume.Killed(2, 1800, 10.5, 12.0, 3)
    assert missed(resume.figures_of(metric, 9, [good] * 2, 2)) == []
    assert [name.partition(",")[0] for name, _ in missed(resume.figures_of(metric, 9, [good, bad], 3))] == [
        "kills",
        "batches of a range done again",
        "rows lost",
        "goes on after a worker is back",
    ]


def test_rollback() -> None:
    good, bad = rollback.Undone(0.2, 0.3, 4.0, 0, 900, 0), rollback.Undone(1.2, 1.3, 11.0, 1, 900, 2)
    figures = rollback.figures_of(metric, {9: [good], 90: [bad]})
    assert [name for name, _ in missed(figures)] == [
        "reads back on the old version, 90 rows",
        "all as it was, 90 rows",
        "acknowledged writes not found, 90 rows",
        "client errors, 90 rows",
    ]
    assert {figure.ratio_to for figure in figures} == {None, "9 rows"}


def test_history() -> None:
    fine, long = history.Events(300, 16, 2, 400, 4e5), history.Events(2000, 2500, 16, 0, 0.0)
    figures = history.figures_of(metric, {1_000_000: fine}, long)
    assert [name for name, _ in missed(figures)] == [
        "events of the parent, 1,000,000,000 rows",
        "events of a child, the longest run, 1,000,000,000 rows",
    ]


def passage(ms: float, phases: tuple[str, ...], group: str, *, failed: bool = False, lost: int = 0) -> Passage:
    spans = [Span(name, 100.0 * number, 100.0 * number + 100) for number, name in enumerate(phases)]
    taken = [Taken(group, 0, "name", at=span.begin + step / 20, ms=ms) for span in spans for step in range(1000)]
    if failed:
        taken.append(Taken(group, 0, "name", at=spans[-1].begin + 1, ms=0, failed=True))
    return Passage(taken, spans, [], [], lost, len(taken))


def test_foreground() -> None:
    control = passage(10, (foreground.ONE, foreground.TWO), "base")
    fine = foreground.figures_of(metric, {"control": [control], "pgduet, x": [passage(15, ("expand",), "base")]})
    assert missed(fine) == []
    assert judged(fine) == 5
    bad = passage(151, ("expand", "backfill"), "base", failed=True, lost=2)
    assert [name for name, _ in missed(foreground.figures_of(metric, {"control": [control], "pgduet, x": [bad]}))] == [
        "p99 in expand",
        "longest stall in expand",
        "p99 in backfill",
        "longest stall in backfill",
        "client errors in backfill",
        "acknowledged writes not found",
    ]


def test_of_a_shadow_no_p99_is_asked_but_everything_else() -> None:
    control = passage(10, (foreground.ONE, foreground.TWO), "base")
    bad = passage(151, ("expand", "backfill"), "base", failed=True, lost=2)
    figures = foreground.figures_of(metric, {"control": [control], "shadow table, x": [bad]})
    assert [name for name, _ in missed(figures)] == [
        "longest stall in expand",
        "longest stall in backfill",
        "client errors in backfill",
        "acknowledged writes not found",
    ]


def test_ledger() -> None:
    good = ledger.Counted(tps=900.0, writes=54_000, lost=0, differ=0, deadlocks=0, errors=0)
    bad = ledger.Counted(tps=100.0, writes=6_000, lost=3, differ=2, deadlocks=1, errors=4)
    fine = ledger.figures_of(metric, "attach", 5, {ledger.NONE: [good], "attach": [good]})
    assert (missed(fine), judged(fine)) == ([], 4)
    figures = ledger.figures_of(metric, "attach", 5, {ledger.NONE: [good], "attach": [good, bad]})
    assert [(name, figure.value) for figure in figures if figure.met is False for name in [figure.metric]] == [
        ("acknowledged writes not found, 5 rows", 3),
        ("rows that the versions see differently, 5 rows", 2),
        ("deadlocks, 5 rows", 1),
        ("client errors, 5 rows", 4),
    ]
    assert [(figure.ratio_to, figure.ratio) for figure in figures if figure.ratio] == [(ledger.NONE, 0.5556)]


@pytest.mark.parametrize(("one_s", "two_s", "found"), [(1.4, 1.0, []), (1.5, 1.1, [1, 2]), (1.0, 1.01, [2])])
def test_shadow_copy(one_s: float, two_s: float, found: list[int]) -> None:
    names = {1: shadow_copy.ONE, 2: shadow_copy.TWO}
    took = {
        shadow_copy.LIMIT: [shadow_copy.Took(1.0)],
        shadow_copy.AFTERWARDS: [shadow_copy.Took(0.8)],
        shadow_copy.ONE: [shadow_copy.Took(9.0, one_s)],
        shadow_copy.TWO: [shadow_copy.Took(9.0, two_s)],
    }
    figures = shadow_copy.figures_of(metric, 1_000_000, took)
    assert [figure.subject for figure in figures if figure.met is False] == [names[number] for number in found]
    assert judged(figures) == 2


def test_a_phase_with_too_few_transactions_of_a_live_version_is_missed() -> None:
    control = passage(10, (foreground.ONE, foreground.TWO), "base")
    only_new = passage(10, ("soak",), foreground.NEW)
    figures = foreground.figures_of(metric, {"control": [control], "pgduet, x": [only_new]})
    assert [name for name, _ in missed(figures)] == ["fewest transactions through the old version in soak"]


@pytest.mark.parametrize(
    ("two_s", "found"),
    [
        (1.0, []),
        (1.05, ["reladiff"]),
        (2.1, ["reladiff", "EXCEPT both ways"]),
        (3.0, ["reladiff", "EXCEPT both ways", "bare full join"]),
    ],
)
def test_parity(two_s: float, found: list[str]) -> None:
    seconds = {parity.ONE: 9.0, parity.TWO: two_s, parity.ENGINE: 0.5}
    seconds |= {parity.RELADIFF: 8.0, parity.EXCEPT: 3.0, parity.JOIN: 2.0}
    took = {name: [parity.Took(s, frozenset())] for name, s in seconds.items()}
    figures = parity.figures_of(partial(metric, "compared"), 1_000_000, took)
    assert missed(figures) == [("compared, 1,000,000 rows", name) for name in found]
    assert judged(figures) == 3


@pytest.mark.parametrize(("p50_us", "found"), [([0.5, 1.0, 9.0], []), ([0.5, 1.01, 9.0], ["a decision, p50"])])
def test_a_decision(p50_us: list[float], found: list[str]) -> None:
    took = {
        decisions.CLOCK: [Latency(count=9, p50=0.1, p99=0.2, longest=1)],
        decisions.PATH: [Latency(count=9, p50=p50, p99=2 * p50, longest=99) for p50 in p50_us],
        decisions.LAUNCHDARKLY: [Latency(count=9, p50=20, p99=40, longest=99)],
    }
    figures = routing.decided(metric, took)
    assert [name for name, _ in missed(figures)] == found
    assert judged(figures) == 1
    assert {(figure.ratio_to, figure.ratio) for figure in figures if figure.ratio} == {
        (decisions.LAUNCHDARKLY, round(p50_us[1] / 20, 4))
    }


def test_a_flip_is_over_when_the_slowest_client_answers_by_it_or_by_a_later_one() -> None:
    flips = [routing.Flip(epoch, written=float(epoch) - 0.5, committed=float(epoch)) for epoch in range(1, 21)]
    prompt = [(epoch, epoch + 0.09) for epoch in range(1, 21)]
    late = [*prompt[:-2], (20, 20.101)]  # never heard of epoch 19
    following = Followers(3, {THREADS: [prompt], TASKS: [prompt, late]})
    ms = routing.waited(following, flips)
    assert [[round(each) for each in flip] for flip in ms[routing.OF_TASKS][-2:]] == [[90, 1101], [90, 101]]
    assert [(figure.metric, figure.subject) for figure in routing.followed(metric, 3, ms) if figure.met is False] == [
        ("flip until a client follows, 3 clients, p99", subject) for subject in (routing.BOTH, routing.OF_TASKS)
    ]
    few = {kind: waits[:2] for kind, waits in ms.items()}
    assert [name for name, _ in missed(routing.followed(metric, 3, few))] == ["flips, 3 clients"]
    assert routing.written(metric, 3, flips).value == 500
    with pytest.raises(routing.NotFollowed, match="epoch 21"):
        routing.waited(following, [routing.Flip(21, 0, 0)])
    with pytest.raises(routing.NotFollowed, match="2 of 3"):
        routing.waited(Followers(3, {THREADS: [prompt], TASKS: [prompt]}), flips)
