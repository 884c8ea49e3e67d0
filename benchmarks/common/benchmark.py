"""What a benchmark is, and how one is run: for each PostgreSQL that was asked for, on servers of its own, within a time."""

import asyncio
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common.figures import Figure, Result
from benchmarks.common.ground import Ground, ground
from benchmarks.common.options import Options, Sizes
from benchmarks.common.peers import Library, Peer


@dataclass(frozen=True)
class Run:
    """One benchmark on one PostgreSQL."""

    ground: Ground
    sizes: Sizes
    options: Options
    seed: int
    peers: dict[str, str] = field(default_factory=dict)
    """Which peers took part, in which version, or why not."""

    def say(self, line: str) -> None:
        """Tell people how it goes."""
        say(line)

    def find(self, peer: Peer) -> Path | None:
        """Find a peer, or say that it is skipped."""
        path = peer.find(self.say, self.options.without)
        self.peers[peer.name] = peer.version if path else "skipped: left out or not installed"
        return path

    def library(self, library: Library) -> bool:
        """Tell whether a library is there, or say that what it does is skipped."""
        version = library.find(self.say, self.options.without)
        self.peers[library.name] = version or "skipped: left out or not installed"
        return version is not None

    def metric(self, words: str, rows: int | None = None) -> str:
        """Name what is measured, at which size and on which PostgreSQL."""
        size = "" if rows is None else f", {rows:,} rows"
        return f"{words}{size}, PostgreSQL {self.ground.postgres.version}"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A script's promise: what it measures, its sizes, and how long it takes at most."""

    name: str
    measure: Callable[[Run], Awaitable[list[Figure]]]
    usual: Sizes
    quick: Sizes
    limit_s: float
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of PostgreSQL, beside those that all benchmarks have."""


def measured(benchmark: Benchmark, options: Options) -> Result:
    """Run it on each PostgreSQL; what goes wrong is raised, and nothing is written then."""
    sizes = options.sizes(benchmark.usual, benchmark.quick)
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    say(f"{benchmark.name}: seed {seed}, {sizes}")
    figures: list[Figure] = []
    versions: dict[str, str] = {}
    for number in sizes.postgres:
        with ground(number, benchmark.settings) as place:
            run = Run(place, sizes, options, seed)
            found, known = asyncio.run(_within(benchmark, run))
        figures += found
        versions |= known | run.peers
    return Result(name=benchmark.name, versions={**versions, "seed": str(seed)}, figures=figures)


async def _within(benchmark: Benchmark, run: Run) -> tuple[list[Figure], dict[str, str]]:
    load, *_ = os.getloadavg()
    async with asyncio.timeout(benchmark.limit_s):
        figures = await benchmark.measure(run)
        return figures, await run.ground.versions() | {"load when it began": f"{load:.1f}"}


def say(line: str) -> None:
    """Tell people something; results alone go to standard output."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
