"""What a decision costs a client that follows a migration, and how soon all clients follow when a route is flipped.

A migration of the scenario bakes at 25 % of the reads. Then `router.path` is asked, in one process and in turn with what it is
compared with: clients of feature flags, and a query per read (`common/decisions.py`). Then 200 routers connect
(`common/followers.py`), and the migration's workflow makes its next steps, each when it is advanced; they bake until then. A flip's
time is counted from its commit, as the server has noted it before it waits for the disk, until `path` of a client answers by it.
Every client must have followed every flip, and told the database so, before the next one.

`--rows` is the number of clients, `--repeats` that of flips, and of turns. Takes about 2 minutes.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from benchmarks.common import decisions, peers, users
from benchmarks.common.alternate import alternating, median
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.decisions import NEW_PERCENT, Asked
from benchmarks.common.duet import Duet, duet
from benchmarks.common.figures import Against, Figure, Goal
from benchmarks.common.followers import TASKS, THREADS, Followers, Noted, followers
from benchmarks.common.ground import Connection, connect
from benchmarks.common.options import Sizes
from pgduet.local.measures import Latency, summed
from pgduet.messages import Status
from pgduet.phases import Phase

MOST_US = Goal("value", "≤", 1.0)
MOST_MS = Goal("value", "≤", 100.0)
LEAST_FLIPS = Goal("value", "≥", 20)
BOTH, OF_THREADS, OF_TASKS = "pgduet, both", "pgduet, Router", "pgduet, AsyncRouter"
_KINDS = {OF_THREADS: THREADS, OF_TASKS: TASKS}
_TABLE_ROWS = 1000
_FOLLOWED_LIMIT_S = 60.0
_LOOK_S = 0.1
_FLIPPED: LiteralString = """
SELECT r.epoch, extract(epoch FROM r.changed_at)::float8, extract(epoch FROM pg_xact_commit_timestamp(r.xmin))::float8,
       (SELECT count(*) FROM pgduet.client c WHERE c.migration = r.migration AND c.kind = 'router' AND c.epoch >= r.epoch)
  FROM pgduet.route r WHERE r.migration = %s
"""


@dataclass(frozen=True, slots=True)
class Flip:
    """A change of the route: its epoch, and when it was written and committed, by the server's clock."""

    epoch: int
    written: float
    committed: float


class NotFollowed(Exception):
    """A client never answered by a route."""


async def measure(run: Run) -> list[Figure]:
    """Ask, then flip, for each number of clients."""
    openfeature, launchdarkly = run.library(peers.OPENFEATURE), run.library(peers.LAUNCHDARKLY)
    figures: list[Figure] = []
    for clients in run.sizes.rows:
        async with run.ground.database() as dsn, duet(run.ground, dsn) as pgduet:
            await _shifting(pgduet, run.sizes.repeats)
            if not figures:
                with decisions.subjects(
                    dsn, run.ground.scratch, openfeature=openfeature, launchdarkly=launchdarkly
                ) as asked:
                    took = await alternating(_turns(asked, random.Random(run.seed)), run.sizes.repeats)
                figures += decided(run.metric, took)
                for name, each in took.items():
                    run.say(f"{name}: p50 {median([turn.p50 for turn in each])} µs")
            async with followers(dsn, clients) as following, await connect(dsn) as conn:
                flips = [await _flip(run, pgduet, conn, clients) for _ in range(run.sizes.repeats)]
            figures += [written(run.metric, clients, flips), *followed(run.metric, clients, waited(following, flips))]
    return figures


def decided(metric: Callable[[str], str], took: Mapping[str, Sequence[Latency]]) -> list[Figure]:
    """Make the figures of single calls; pure."""
    p50 = {name: median([turn.p50 for turn in turns]) for name, turns in took.items()}
    p99 = {name: median([turn.p99 for turn in turns]) for name, turns in took.items()}
    ours = decisions.PATH
    figures = [Figure.of(metric("a decision, p50"), ours, p50[ours], "µs", goal=MOST_US)]
    others = [name for name in took if name not in {ours, decisions.CLOCK}]
    figures += [
        Figure.of(metric(f"a decision, {word}"), ours, of[ours], "µs", against=Against(name, of[name]))
        for word, of in (("p50", p50), ("p99", p99))
        for name in others
    ]
    return figures + [
        Figure.of(metric(f"a decision, {word}"), name, of[name], "µs")
        for word, of in (("p50", p50), ("p99", p99))
        for name in (decisions.CLOCK, *others)
    ]


def followed(metric: Callable[[str], str], clients: int, ms: Mapping[str, Sequence[Sequence[float]]]) -> list[Figure]:
    """Make the figures of flips, from each flip's waits in ms by kind of client; pure."""
    name = f"flip until a client follows, {clients} clients"
    whole = [[each for kind in ms.values() for each in kind[number]] for number in range(min(map(len, ms.values())))]
    figures = [
        Figure.of(metric(f"flips, {clients} clients"), BOTH, len(whole), "", goal=LEAST_FLIPS),
        *(
            Figure.of(metric(f"flip until the {word} client follows, median, {clients} clients"), BOTH, value, "ms")
            for word, value in (("first", median(list(map(min, whole)))), ("last", median(list(map(max, whole)))))
        ),
    ]
    for subject, flips in {BOTH: whole, **ms}.items():
        found = summed([each for flip in flips for each in flip])
        figures += [
            Figure.of(metric(f"{name}, p50"), subject, found.p50, "ms"),
            Figure.of(metric(f"{name}, p99"), subject, found.p99, "ms", goal=MOST_MS),
            Figure.of(metric(f"{name}, longest"), subject, found.longest, "ms"),
        ]
    return figures


def written(metric: Callable[[str], str], clients: int, flips: Sequence[Flip]) -> Figure:
    """Tell for how long a flip was written and not yet committed: its entry in the audit log is in the transaction; pure."""
    ms = median([(flip.committed - flip.written) * 1000 for flip in flips])
    return Figure.of(metric(f"flip written until it is committed, median, {clients} clients"), BOTH, ms, "ms")


def waited(following: Followers, flips: Sequence[Flip]) -> dict[str, list[list[float]]]:
    """Give for each kind of client and each flip what each client waited, in ms; pure.

    Raises:
        NotFollowed: one of them never answered by a flip.
    """
    found = sum(len(noted) for noted in following.noted.values())
    if found != following.count:
        message = f"{found} of {following.count} clients told what they noted"
        raise NotFollowed(message)
    return {
        subject: [[_wait(noted, flip) for noted in following.noted[kind]] for flip in flips]
        for subject, kind in _KINDS.items()
        if following.noted[kind]
    }


def _wait(noted: Noted, flip: Flip) -> float:
    moments = [at for epoch, at in noted if epoch >= flip.epoch]
    if not moments:
        message = f"a client never answered by epoch {flip.epoch}"
        raise NotFollowed(message)
    return (min(moments) - flip.committed) * 1000


def steps(flips: int) -> list[int]:
    """Give the shift's steps: from where it is asked on, so many flips up to all reads."""
    return [*range(NEW_PERCENT, NEW_PERCENT + flips), 100]


async def _shifting(pgduet: Duet, flips: int) -> None:
    """Bring a migration to the first step of its shift, which bakes."""
    await users.create(pgduet.dsn)
    await users.fill(pgduet.dsn, _TABLE_ROWS, distinct=True)
    shift = {"steps": steps(flips), "bake_s": 86_400.0, "max_latency_ratio": 1000.0}
    await pgduet.start(shift=shift, rollback={"automatic_on": []})
    await pgduet.until(_bakes, "at the first step of its shift")


def _bakes(status: Status) -> bool:
    return status.phase is Phase.SHIFT and status.waiting_for is not None and status.waiting_for.kind == "bake"


def _turns(asked: Mapping[str, Asked], chance: random.Random) -> dict[str, Callable[[], Any]]:
    """Have each asked for other keys in each turn."""

    def turn(each: Asked) -> Callable[[], Any]:
        async def took() -> Latency:
            return each.took(chance.randrange(1_000_000_000))

        return took

    return {name: turn(each) for name, each in asked.items()}


async def _flip(run: Run, pgduet: Duet, conn: Connection, clients: int) -> Flip:
    """Let the workflow make its next step, and wait until the database has heard from every client that it follows."""
    await pgduet.until(_bakes, "baking")
    before, _ = await _flipped(conn)
    await pgduet.advance()
    async with asyncio.timeout(_FOLLOWED_LIMIT_S):
        while True:
            await asyncio.sleep(_LOOK_S)
            flip, acknowledged = await _flipped(conn)
            if flip.epoch > before.epoch and acknowledged == clients:
                run.say(f"epoch {flip.epoch}: all {clients} follow")
                return flip


async def _flipped(conn: Connection) -> tuple[Flip, int]:
    """Give the last change of the route, and how many clients have told the database that they follow it."""
    row = await (await conn.execute(_FLIPPED, (users.NAME,))).fetchone()
    if row is None:
        message = "there is no route"
        raise LookupError(message)
    return Flip(*row[:3]), int(row[3])


BENCHMARK = Benchmark(
    name="routing",
    measure=measure,
    usual=Sizes(rows=(200,), repeats=25),
    quick=Sizes(rows=(16,), repeats=3),
    limit_s=1800,
    settings={"track_commit_timestamp": "on"},
)
