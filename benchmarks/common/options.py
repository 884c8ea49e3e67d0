"""What a run may be told: sizes, servers, repeats, where results go. A benchmark has its own sizes, and small ones for --quick."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
QUICK_RESULTS = ROOT / ".pgduet" / "benchmarks"
"""Figures of small sizes say only that a benchmark works: they are never put where the real ones are."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large and how often a benchmark measures."""

    rows: tuple[int, ...] = (1_000_000,)
    repeats: int = 3
    postgres: tuple[int, ...] = (18,)


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for; None where the benchmark's own sizes hold."""

    names: tuple[str, ...]
    rows: tuple[int, ...] | None = None
    repeats: int | None = None
    postgres: tuple[int, ...] | None = None
    quick: bool = False
    without: tuple[str, ...] = ()
    seed: int | None = None
    out: Path | None = None

    def sizes(self, usual: Sizes, quick: Sizes) -> Sizes:
        """Lay what was asked for over a benchmark's own."""
        own = quick if self.quick else usual
        return Sizes(self.rows or own.rows, self.repeats or own.repeats, self.postgres or own.postgres)

    @property
    def results(self) -> Path:
        """Where results go."""
        return self.out or (QUICK_RESULTS if self.quick else RESULTS)


def parse(words: Sequence[str] | None, names: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure pgduet beside its peers.")
    parser.add_argument(
        "names", nargs="+", choices=[*names, "all", "table", "peers"], metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--rows", type=_numbers, help="sizes, as 300000,1000000")
    parser.add_argument("--postgres", type=_numbers, help="versions, as 16,18")
    parser.add_argument("--repeats", type=int, help="how often each subject is measured; the median counts")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--without", type=_words, default=(), help="peers to leave out, as pgroll,reshape")
    parser.add_argument("--seed", type=int, help="of what is random; it is printed")
    parser.add_argument("--out", type=Path, help=f"where results go ({RESULTS.relative_to(ROOT)})")
    return Options(**{**vars(given := parser.parse_args(words)), "names": tuple(given.names)})


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word.replace("_", "")) for word in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)
