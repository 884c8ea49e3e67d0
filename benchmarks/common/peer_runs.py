"""pgroll and reshape at work on the scenario: prepared as pgduet is (initialised, the table there and filled), then timed.

What is timed is the peer's own program, by the wall clock, from its start to its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import users
from benchmarks.common.programs import NICE, Ran, run

_LIMIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Pgroll:
    """pgroll on one database."""

    program: Path
    dsn: str
    files: Sequence[Path]
    aside: bool = False
    """At a lower priority than the server and its clients."""

    @classmethod
    async def prepared(cls, program: Path, dsn: str, scratch: Path, *, visits: bool = False) -> "Pgroll":
        """Initialise it, and have it make the table, which its history must know."""
        pgroll = cls(program, dsn, users.pgroll_files(scratch, visits=visits))
        await pgroll("init")
        await pgroll("start", "--complete", str(pgroll.files[0]))
        return pgroll

    async def start(self, batch_rows: int | None = None) -> Ran:
        """Start the migration that is measured; it returns when all rows are filled."""
        batch = [] if batch_rows is None else ["--backfill-batch-size", str(batch_rows)]
        return await self("start", *batch, str(self.files[1]))

    async def __call__(self, *words: str) -> Ran:
        """Run one of its commands."""
        lower = ["nice", "-n", str(NICE)] if self.aside else []
        command = [*lower, str(self.program), *words, "--postgres-url", f"{self.dsn}?sslmode=disable"]
        return await run(command, limit_s=_LIMIT_S)


@dataclass(frozen=True, slots=True)
class Reshape:
    """reshape on one database; it takes what lies in a directory."""

    program: Path
    dsn: str
    directory: Path

    @classmethod
    async def prepared(cls, program: Path, dsn: str, scratch: Path) -> "Reshape":
        """Have it make the table."""
        directory = scratch / dsn.rpartition("/")[2]
        directory.mkdir()
        _, second = users.reshape_files(directory)
        aside = second.rename(second.with_suffix(".later"))
        reshape = cls(program, dsn, directory)
        await reshape("start", "--complete")
        aside.rename(second)
        return reshape

    async def start(self) -> Ran:
        """Start the migration that is measured; it returns when all rows are filled."""
        return await self("start")

    async def __call__(self, *words: str) -> Ran:
        """Run one of its commands."""
        command = [str(self.program), "migration", *words, "--url", self.dsn, "--dirs", str(self.directory)]
        return await run(command, limit_s=_LIMIT_S)
