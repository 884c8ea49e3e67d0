"""What clients meet while a migration gives their table another shape, from start to done, and to soak and back.

As `foreground`, with a plan for which each write of a client goes to two tables. Of that no p99 is asked, but everything else: no
error, no write lost, no long stall, enough transactions through each live version in each phase.

Takes about 10 minutes at each size on each PostgreSQL: 40 minutes in all.
"""

from functools import partial

from benchmarks.common import journeys, users
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.journeys import Load
from benchmarks.common.options import Sizes
from benchmarks.foreground import BACK, FORWARD, SHADOW, Subjects, measure


def to_another_shape(run: Run, load: Load) -> Subjects:
    """Give the journeys of a shadow table."""
    return {
        f"{SHADOW}, {FORWARD}": partial(journeys.forward, run, load, users.SHADOW),
        f"{SHADOW}, {BACK}": partial(journeys.back, run, load, users.SHADOW),
    }


BENCHMARK = Benchmark(
    name="foreground_shadow",
    measure=partial(measure, made=to_another_shape),
    usual=Sizes(rows=(300_000, 1_000_000), repeats=1, postgres=(16, 18)),
    quick=Sizes(rows=(20_000,), repeats=1),
    limit_s=3 * 3600,
)
