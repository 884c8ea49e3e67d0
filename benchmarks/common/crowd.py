"""Clients at work on one database, in groups: long ones hold their connections, short ones come and go every two seconds.

A group has a role of its own whose search_path names a version, as services have; so a census can see it. Long ones are ended
in order: the benchmark locks the table for a moment, so that nothing is under way, and takes their sessions away. Then what
they were told is exactly what is stored, and `lost` needs no tolerance.

Limits: that moment is a wait of our own making; it is noted in `ours`, together with the time in which others make up for it, and
left out of all latencies.
"""

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString

from psycopg import sql

from benchmarks.common import pgbench
from benchmarks.common.ground import Ground, connect, one
from benchmarks.common.measures import Span, Taken
from benchmarks.common.programs import run, running

SHORT_S = 2
_END_LIMIT_S = 30.0
_MADE_UP_S = 0.5
"""Until those who stay have done what became due while the table was held."""
_DEFAULTS: tuple[LiteralString, ...] = (
    "GRANT USAGE, CREATE ON SCHEMAS",
    "GRANT ALL ON TABLES",
    "GRANT ALL ON SEQUENCES",
)


@dataclass
class Broken:
    """Clients that an error ended: of which group, when it was last heard of, and why."""

    group: str
    at: float
    why: str


@dataclass
class _Long:
    process: asyncio.subprocess.Process
    output: "asyncio.Task[tuple[bytes, bytes]]"
    log: Path


@dataclass(frozen=True, slots=True)
class _Heard:
    """What a pgbench left behind: its log, and which of its clients an error ended."""

    group: str
    log: Path
    aborted: list[pgbench.Aborted]
    at: float


@dataclass
class Crowd:
    """All groups on one database. Clients of a group that were ended may come back under another schema."""

    ground: Ground
    dsn: str
    rows: int
    rate: float
    clients: int
    seeds: Iterator[int]
    stack: AsyncExitStack
    scripts: list[str] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    taken: list[Taken] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    ours: list[Span] = field(default_factory=list)
    marks: list[tuple[str, float]] = field(default_factory=list)
    _long: dict[str, _Long] = field(default_factory=dict)
    _heard_of: list[_Heard] = field(default_factory=list)
    _short: "asyncio.Task[None] | None" = None
    _leave: asyncio.Event = field(default_factory=asyncio.Event)

    def mark(self, phase: str) -> None:
        """Say that a phase begins now, and the one before ends."""
        self.marks.append((phase, time.time()))

    @property
    def phases(self) -> list[Span]:
        """Give the phases that were marked; the last one lasts until now."""
        ends = [at for _, at in self.marks[1:]] + [time.time()]
        return [Span(name, begin, end) for (name, begin), end in zip(self.marks, ends, strict=True)]

    @property
    def program(self) -> Path:
        """The pgbench of the server's version."""
        return self.ground.postgres.bin_dir / "pgbench"

    async def come(self, group: str, schema: str) -> None:
        """Have a group of long ones come, through a schema."""
        command, log = await self._command(group, schema, None)
        process = await self.stack.enter_async_context(running(command))
        self._long[group] = _Long(process, asyncio.create_task(process.communicate()), log)

    async def leave(self, *groups: str) -> None:
        """End groups of long ones in order, all in the same moment."""
        leaving = {group: self._long.pop(group) for group in groups}
        began = time.time()
        async with await connect(self.dsn) as conn, conn.transaction():
            await conn.execute("SET LOCAL lock_timeout = '20s'")
            await conn.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            names = [self.roles[group] for group in groups]
            found = await conn.execute(
                "SELECT usename, pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = ANY (%s)",
                [names],
            )
            sessions = Counter(row[0] for row in await found.fetchall())
        self.ours.append(Span("ours", began, time.time() + _MADE_UP_S))
        for group, long in leaving.items():
            said, _ = await asyncio.wait_for(long.output, _END_LIMIT_S)
            broken = self._heard(group, said.decode(errors="replace"), long.log, ended=True)
            for _ in range(self.clients - broken - sessions[self.roles[group]]):
                self.broken.append(Broken(group, began, "its session was gone, and it said nothing"))

    async def come_and_go(self, group: str, schema: str) -> None:
        """Have short ones come and go, until they are told to stay away."""
        self._leave.clear()
        self._short = asyncio.create_task(self._coming_and_going(group, schema))

    async def stay_away(self) -> None:
        """Let the short ones that are there finish; no others come."""
        self._leave.set()
        if self._short:
            short, self._short = self._short, None
            await short

    async def drop(self) -> None:
        """Let nobody come any more, and end who is short of it; long ones end with the stack."""
        self._leave.set()
        if self._short:
            self._short.cancel()
            with suppress(asyncio.CancelledError):
                await self._short

    async def _coming_and_going(self, group: str, schema: str) -> None:
        while not self._leave.is_set():
            command, log = await self._command(group, schema, SHORT_S)
            ran = await run(command, limit_s=_END_LIMIT_S + SHORT_S, may_fail=True)
            broken = self._heard(group, ran.said, log, ended=False)
            if ran.code and not broken:
                self.broken.append(Broken(group, time.time(), ran.said[-300:]))
                await asyncio.sleep(0.2)

    def _heard(self, group: str, said: str, log: Path, *, ended: bool) -> int:
        """Note what a group's pgbench wrote; gives how many clients an error has ended."""
        aborted = pgbench.aborted(said, ended=ended)
        self._heard_of.append(_Heard(group, log, aborted, time.time()))
        return len(aborted)

    def _read(self) -> None:
        """Read what was logged, by those who have left."""
        heard, self._heard_of = self._heard_of, []
        for each in heard:
            taken = list(pgbench.logged(each.log, each.group))
            last = {one.client: one.at for one in taken}
            self.taken += taken
            self.broken += [Broken(each.group, last.get(one.client, each.at), one.why) for one in each.aborted]

    async def _command(self, group: str, schema: str, seconds: float | None) -> tuple[list[str], Path]:
        """Have the group's role look at the schema; gives its pgbench."""
        role = await self._look_at(group, schema)
        log = self.ground.scratch / f"{role}-{secrets.token_hex(3)}"
        address = f"{self.dsn.replace('postgres@', f'{role}@', 1)}?application_name={group}"
        command = pgbench.command(
            self.program,
            self.scripts,
            address,
            clients=self.clients,
            seconds=seconds,
            rate=self.rate,
            log=log,
            seed=next(self.seeds),
        )
        return command, log

    async def invite(self, *groups: str, schemas: Sequence[str] = ()) -> None:
        """Make the groups' roles, with all rights on the table, as services have them long before a migration.

        `schemas` are those of a peer, which grants nothing itself: what it makes there later is granted by default.
        """
        async with await connect(self.dsn) as conn:
            for group in groups:
                self.roles[group] = name = f"bench_{group}_{secrets.token_hex(4)}"
                role = sql.Identifier(name)
                await conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
                await conn.execute(sql.SQL("GRANT ALL ON TABLE public.users TO {}").format(role))
                await conn.execute(sql.SQL("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {}").format(role))
                for schema in map(sql.Identifier, schemas):
                    await conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role))
                    await conn.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA {} TO {}").format(schema, role))
                for default in _DEFAULTS if schemas else ():
                    statement = sql.SQL("ALTER DEFAULT PRIVILEGES {} TO {}").format(sql.SQL(default), role)
                    await conn.execute(statement)

    async def _look_at(self, group: str, schema: str) -> str:
        """Have the group's role look at a schema from its next session on."""
        setting = sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = {}")
        async with await connect(self.dsn) as conn:
            role, database = sql.Identifier(self.roles[group]), sql.Identifier(conn.info.dbname)
            await conn.execute(setting.format(role, database, sql.Identifier(schema)))
        return self.roles[group]

    async def lost(self) -> int:
        """Read all logs, and count acknowledged writes that are not found; all groups must have left.

        `taken` and `writes` tell everything from then on, and `broken` who was ended by an error.
        """
        self._read()
        name, visits, count = await one(self.dsn, pgbench.FOUND)
        acknowledged = dict.fromkeys(pgbench.KINDS, 0)
        for each in self.taken:
            acknowledged[each.kind] += not each.failed
        found = {"name": int(name), "visits": int(visits), "insert": int(count) - self.rows}
        for kind, number in found.items():
            if number > acknowledged[kind]:
                message = f"{number} writes `{kind}` are found, and {acknowledged[kind]} were acknowledged"
                raise ValueError(message)
        return sum(acknowledged[kind] - number for kind, number in found.items())

    @property
    def writes(self) -> int:
        """Acknowledged writes."""
        return sum(not each.failed for each in self.taken if each.kind != "select")


@asynccontextmanager
async def crowd(ground: Ground, dsn: str, rows: int, *, rate: float, clients: int, seed: int) -> AsyncIterator[Crowd]:
    """Make one; nobody has come yet, and all are gone afterwards. Roles stay, for as long as the server."""
    async with AsyncExitStack() as stack:
        made = Crowd(
            ground, dsn, rows, rate, clients, itertools.count(seed), stack, pgbench.written(ground.scratch, rows)
        )
        try:
            yield made
        finally:
            await made.drop()
