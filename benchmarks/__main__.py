"""`python -m benchmarks NAME…`: runs benchmarks, writes their results, and prints tables.

`all` runs every one, `table` fills the page in the docs from the results that lie there, `peers` builds what is compared
with. Exit code 1 where a goal was missed (but for --quick), 2 where a benchmark ended by an error; the others are run all the same.
"""

import asyncio
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from benchmarks.common import options, peers, table
from benchmarks.common.benchmark import Benchmark, measured, say
from benchmarks.common.figures import Result
from benchmarks.common.options import Options
from pgduet.local.stopping import interruptible

NAMES = (
    *(
        "backfill",
        "write_amplification",
        "foreground",
        "foreground_shadow",
        "ddl_lock",
        "resume",
        "rollback",
        "history",
    ),
    *("parity", "ledger", "shadow_copy", "routing"),
)
PAGE = options.ROOT / "docs" / "explanation" / "benchmarks.md"
FAILED, INTERRUPTED = 2, 130


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; gives the exit code."""
    given = options.parse(words, NAMES)
    try:
        with interruptible() as ending:
            try:
                return max(_done(name, given) for name in given.names)
            finally:
                ending()
    except KeyboardInterrupt:
        return INTERRUPTED


def _done(name: str, given: Options) -> int:
    if name == "table":
        PAGE.write_text(
            table.filled(PAGE.read_text(encoding="utf-8"), table.read_all(options.RESULTS)), encoding="utf-8"
        )
        return 0
    if name == "peers":
        return 0 if asyncio.run(peers.build_all(say)) else 1
    return max(_ran(each, given) for each in (NAMES if name == "all" else (name,)))


def _ran(name: str, given: Options) -> int:
    benchmark: Benchmark = import_module(f"benchmarks.{name}").BENCHMARK
    try:
        result = measured(benchmark, given)
    except Exception:  # noqa: BLE001  (the others are measured all the same)
        say(f"{name} ended by an error, and has no result:\n{traceback.format_exc()}")
        return FAILED
    say(f"written: {result.write(given.results)}")
    print(table.section(result))
    missed = verdict(result)
    if given.quick and missed:
        say("small sizes are for seeing that it works: what was missed at them is no verdict")
    return 0 if given.quick else missed


def verdict(result: Result) -> int:
    """Name what was missed, and what could not be judged; gives the exit code: 1 where a goal was missed."""
    for figure in result.missed:
        word = "missed" if figure.met is False else "not judged"
        got = figure.ratio if (figure.goal or "").startswith("ratio") else figure.value
        say(f"{word}: {figure.metric}, {figure.subject}: {figure.goal}, got {got}")
    return 1 if any(figure.met is False for figure in result.missed) else 0


if __name__ == "__main__":
    sys.exit(main())
