"""What clients meet while a migration goes from start to done, and to soak and back: errors, lost writes, p99, stalls.

Eight clients of pgbench work at half of the rate that the machine can do. They never try anything again. Each phase is held
until at least 1,000 transactions were done in it through each live version. Afterwards each acknowledged write is found
again. The p99 of a phase is compared with that of a control, the same clients beside an idle worker, medians of alternating
runs; latencies count from when a transaction was due, and beside it from when it was sent. The longest stall is that of all
runs, from when a transaction was sent. pgroll takes the same way: start and complete, and start and rollback.

The plan changes a column in place. `foreground_shadow` makes the same journeys by one that gives the table another shape.

Takes about 8 minutes for each of three repeats at each size on each PostgreSQL: 100 minutes in all.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

from benchmarks.common import journeys, peers
from benchmarks.common.alternate import alternating, median
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.figures import Against, Figure, Goal
from benchmarks.common.journeys import BASE, ENOUGH, MOVED, NEW, OLD, ONE, TWO, Load, Passage
from benchmarks.common.measures import Waits, by_phase, waits
from benchmarks.common.options import Sizes
from pgduet.phases import Phase

DUET, SHADOW, PGROLL, CONTROL = "pgduet", "shadow table", "pgroll", "control"
FORWARD, BACK = "start to done", "soak and back"
VERSIONS = {OLD: (BASE, OLD), NEW: (NEW, MOVED)}
P99 = Goal("ratio", "≤", 1.5)
STALL = Goal("value", "≤", 150)
NONE = Goal("value", "≤", 0)

Metric = Callable[[str], str]
Subjects = dict[str, Callable[[], Awaitable[Passage]]]


def in_place(run: Run, load: Load) -> Subjects:
    """Give the journeys of a plan that changes a column in place, and pgroll's."""
    found: Subjects = {
        f"{DUET}, {FORWARD}": partial(journeys.forward, run, load),
        f"{DUET}, {BACK}": partial(journeys.back, run, load),
    }
    if program := run.find(peers.pgroll()):
        found[f"{PGROLL}, start and complete"] = partial(journeys.pgroll_forward, run, load, program)
        found[f"{PGROLL}, start and rollback"] = partial(journeys.pgroll_back, run, load, program)
    return found


async def measure(run: Run, made: Callable[[Run, Load], Subjects] = in_place) -> list[Figure]:
    """Measure all sizes."""
    figures: list[Figure] = []
    for rows in run.sizes.rows:
        tps = await journeys.ceiling(run, rows)
        load = journeys.load_for(rows, tps)
        run.say(
            f"{rows:,} rows: at most {tps:,.0f} transactions/s; two groups at {load.rate:,.0f}, held {load.hold_s:.1f} s"
        )
        subjects: Subjects = {CONTROL: partial(journeys.control, run, load), **made(run, load)}
        told = {name: partial(_told, run, name, subject) for name, subject in subjects.items()}
        passed = await alternating(told, run.sizes.repeats)
        figures.append(Figure.of(run.metric("the most transactions", rows), "pgbench -c 8", tps, "1/s"))
        figures += figures_of(partial(run.metric, rows=rows), passed)
    return figures


def figures_of(metric: Metric, passed: Mapping[str, Sequence[Passage]]) -> list[Figure]:
    """Make the figures of one size; pure."""
    alone = _phases(passed[CONTROL])
    figures: list[Figure] = []
    for name, journeyed in passed.items():
        figures += _phase_figures(metric, name, _phases(journeyed), alone)
        figures += _whole_figures(metric, name, journeyed)
    return figures


def _phase_figures(
    metric: Metric,
    name: str,
    phases: Mapping[str, list[Mapping[str, Waits]]],
    alone: Mapping[str, list[Mapping[str, Waits]]],
) -> Iterable[Figure]:
    ours = name.startswith((DUET, SHADOW))
    for phase, runs in phases.items():
        new_too = any(NEW in each for each in runs)
        beside = TWO if new_too else ONE
        goal = P99 if name.startswith(DUET) and phase != "before" else None
        for what, of, asked in (("p99", "p99_ms", goal), ("p99 once sent", "p99_sent_ms", None)):
            control = median([getattr(each[""], of) for each in alone[beside]])
            against = None if name == CONTROL else Against(f"{CONTROL}, {beside}", control)
            p99 = median([getattr(each[""], of) for each in runs])
            yield Figure.of(metric(f"{what} in {phase}"), name, p99, "ms", against=against, goal=asked)
        longest = max(each[""].longest_ms for each in runs)
        yield Figure.of(
            metric(f"longest stall in {phase}"), name, longest, "ms", goal=STALL if ours and phase != "before" else None
        )
        if ours:
            for version, groups in VERSIONS.items():
                done = min(sum(each[group].count for group in groups if group in each) for each in runs)
                if version in _live(phase, new_too=new_too):
                    what = metric(f"fewest transactions through the {version} version in {phase}")
                    yield Figure.of(what, name, done, "", goal=Goal("value", "≥", ENOUGH))


def _live(phase: str, *, new_too: bool) -> set[str]:
    """Name the versions that live throughout a phase."""
    if phase in {Phase.CONTRACT.value, Phase.DONE.value}:
        return {NEW}
    return {OLD, NEW} if new_too else {OLD}


def _whole_figures(metric: Metric, name: str, journeyed: Sequence[Passage]) -> Iterable[Figure]:
    goal = NONE if name.startswith((DUET, SHADOW)) else None
    met = Counter(phase for each in journeyed for phase in _met_in(each))
    for phase in dict.fromkeys(span.name for each in journeyed for span in each.phases):
        yield Figure.of(metric(f"client errors in {phase}"), name, met[phase], "", goal=goal)
    lost = sum(each.lost for each in journeyed)
    yield Figure.of(metric("acknowledged writes not found"), name, lost, "", goal=goal)
    yield Figure.of(metric("acknowledged writes"), name, sum(each.writes for each in journeyed), "")


def _met_in(passage: Passage) -> Iterable[str]:
    """Name the phase of each error: of a client that it ended, and of a transaction that failed."""
    moments = [each.at for each in passage.broken] + [each.at for each in passage.taken if each.failed]
    for moment in moments:
        inside = [span.name for span in passage.phases if span.has(moment)]
        yield inside[0] if inside else passage.phases[-1].name


def _phases(journeyed: Sequence[Passage]) -> dict[str, list[Mapping[str, Waits]]]:
    """Sum each run up by phase, and in it by group; `""` is all groups."""
    found: dict[str, list[Mapping[str, Waits]]] = {}
    for each in journeyed:
        grouped = by_phase(each.taken, each.phases, each.ours)
        for span in each.phases:
            inside = {group: one for (phase, group), one in grouped.items() if phase == span.name}
            every = waits((taken for taken in each.taken if span.has(taken.at)), each.ours)
            found.setdefault(span.name, []).append({**inside, "": every})
    return found


async def _told(run: Run, name: str, subject: Callable[[], Awaitable[Passage]]) -> Passage:
    passage = await subject()
    run.say(
        f"{name}: {passage.writes:,} writes acknowledged, {passage.lost} lost, {len(passage.broken)} clients aborted"
    )
    for why in {each.why for each in passage.broken}:
        run.say(f"  {why}")
    return passage


BENCHMARK = Benchmark(
    name="foreground",
    measure=measure,
    usual=Sizes(rows=(300_000, 1_000_000), repeats=3, postgres=(16, 18)),
    quick=Sizes(rows=(20_000,), repeats=1),
    limit_s=3 * 3600,
)
