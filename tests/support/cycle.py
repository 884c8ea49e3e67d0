"""The cycle that every operation goes through: start, roll back, start, complete; both versions are used at every stop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgduet.phases import Phase, State
from support.harness import Harness, schema_dump
from support.plans import overlaid
from support.witness import Witness

UNHELD: dict[str, Any] = {
    "backfill": {"parallelism": 1},
    "shadow": {"min_samples": 1},
    "shift": {"steps": [100], "bake_s": 0, "max_latency_ratio": 1000},
    "soak": {"window_s": 3600, "legacy_idle_s": 0},
    "gates": {"cutover": "auto", "contract": "auto"},
    "rollback": {"automatic_on": []},
}
"""To soak without a stop."""
QUICK: dict[str, Any] = overlaid(UNHELD, {"gates": {"shift": "manual"}})
"""The same, with a stop in the overlap before cutover."""

Expected = list[tuple[Any, ...]] | str | None
"""Rows that come back, the SQLSTATE of a refusal, or nothing in particular."""


@dataclass(frozen=True)
class Step:
    """One statement of a client: `{n}` in it is a number of the stop's own, and `expected` is given that number."""

    version: str
    text: str
    expected: Callable[[int], Expected] = lambda _: None


def old(text: str, expected: Callable[[int], Expected] = lambda _: None) -> Step:
    """Speak as a client of version 1."""
    return Step("1", text, expected)


def new(text: str, expected: Callable[[int], Expected] = lambda _: None) -> Step:
    """Speak as a client of version 2."""
    return Step("2", text, expected)


def base(text: str, expected: Callable[[int], Expected] = lambda _: None) -> Step:
    """Speak as a client that names base tables."""
    return Step("", text, expected)


@dataclass(frozen=True)
class Case:
    """One plan: what is there before, what both versions do at each stop, and what is there at the end."""

    name: str
    operations: list[dict[str, Any]]
    steps: Sequence[Step]
    final: Sequence[Step]
    setup: str = ""
    after_cutover: Sequence[Step] = ()
    policy: dict[str, Any] = field(default_factory=dict)
    plan: str = "the-plan"

    def __str__(self) -> str:
        return self.name


class Cycle:
    """A case on its way."""

    def __init__(self, stage: Harness, conn: psycopg.AsyncConnection[Any], bin_dir: Path, case: Case) -> None:
        self.stage = stage
        self.conn = conn
        self.bin_dir = bin_dir
        self.case = case
        self.stops = 0
        self.witness: Witness | None = None

    async def go(self) -> None:
        """Go there, back, there again and to the end."""
        before = schema_dump(self.bin_dir, self.stage.dsn)
        wanted = self.stage.plan(*self.case.operations, name=self.case.plan, **overlaid(QUICK, self.case.policy))
        async with self.stage.worker():
            await self._until_soak(wanted)
            await self.stage.act("abort", reason="half of the cycle")
            status = await self.stage.until(lambda status: status.state in {State.ROLLED_BACK, State.FAILED}, 60)
            assert status.state is State.ROLLED_BACK, status.failure
            assert schema_dump(self.bin_dir, self.stage.dsn) == before
            await self.stage.result()
            await self._until_soak(wanted)
            await self.stage.act("advance", reason="the end of the window")
            await self.stage.result(60)
        await self.speak([step for step in self.case.final if step.version != "1"])
        left = await self.conn.execute(
            # An index keeps the name that its column had; PostgreSQL shows it nowhere but in its own catalogue.
            "SELECT attrelid::regclass, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
            " WHERE attname LIKE '\\_pgduet%' AND NOT attisdropped AND c.relkind NOT IN ('i', 'I')"
            " UNION ALL SELECT conrelid::regclass, conname FROM pg_constraint WHERE conname LIKE '\\_pgduet%'"
            " UNION ALL SELECT oid::regclass, relname FROM pg_class WHERE relname LIKE '\\_pgduet%'"
            " UNION ALL SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE '~pgduet%' OR tgname LIKE '!pgduet%'"
        )
        found = await left.fetchall()
        assert found == [], found
        if self.witness:
            assert self.witness.seen
            assert not self.witness.undeclared, f"locked without having been taken first: {self.witness.undeclared}"

    async def _until_soak(self, wanted: dict[str, Any]) -> None:
        await self.stage.start(wanted)
        await self._waits("gate", Phase.SHADOW)
        await self._stop(self.case.steps)
        await self.stage.act("advance", reason="seen")
        await self._waits("window", Phase.SOAK)
        await self._stop([*self.case.steps, *self.case.after_cutover])

    async def _waits(self, kind: str, phase: Phase) -> None:
        def there(status: Any) -> bool:
            stuck = status.failure is not None or (status.waiting_for and status.waiting_for.kind in {"drift", "error"})
            return bool(stuck) or (
                status.phase is phase and status.waiting_for is not None and status.waiting_for.kind == kind
            )

        status = await self.stage.until(there, 90)
        assert status.failure is None, status.failure
        assert status.waiting_for is not None
        assert status.waiting_for.kind == kind, status.waiting_for

    async def _stop(self, steps: Sequence[Step]) -> None:
        self.stops += 1
        await self.speak(steps)

    async def speak(self, steps: Sequence[Step]) -> None:
        """Run statements as their versions' clients, each in a transaction of its own."""
        number = 1000 * (self.stops + 1)
        for step in steps:
            path = f"public_v{step.version}" if step.version else "public"
            wanted = step.expected(number)
            got = await self._say(path, step.text.replace("{n}", str(number)))
            if wanted is None:
                assert isinstance(got, list), f"{path}: {step.text}: refused with {got}"
            else:
                assert got == wanted, f"{path}: {step.text}: {got}"

    async def _say(self, path: str, text: str) -> list[tuple[Any, ...]] | str | None:
        """Run one statement; gives its rows, or the SQLSTATE of its refusal."""
        try:
            async with self.conn.transaction():
                await self.conn.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(path)))
                cursor = await self.conn.execute(text.encode())
                return await cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            return error.sqlstate
