"""Clients that come in groups, work, and leave in order: each on a connection of its own, by a role of its group's version.

A role's search_path names the schema, as services have it: so a census can see who is there.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sized
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, Self, TypeVar

import psycopg
from psycopg import sql

Connection = psycopg.AsyncConnection[Any]
TIMEOUT_S = 60.0
_ROLE = (
    "CREATE ROLE {} LOGIN",
    "GRANT ALL ON ALL TABLES IN SCHEMA public TO {}",
    "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {}",
)


class Client(Protocol):
    """One that does one thing at a time, and notes in the ledger what came of it."""

    async def act(self) -> None: ...


class Ledger(Protocol):
    """What was acknowledged: who did how much, and what went wrong."""

    done: Counter[str]

    @property
    def errors(self) -> Sized: ...


L = TypeVar("L", bound=Ledger)


class Groups(Generic[L]):
    """Groups of clients on one database."""

    def __init__(self, dsn: str, ledger: L, pause_s: float, roles: Iterable[str]) -> None:
        self.dsn = dsn
        self.ledger = ledger
        self.pause_s = pause_s
        self.roles = {name: f"client_{name}_{secrets.token_hex(4)}" for name in roles}
        self.groups: dict[str, list[tuple[str, asyncio.Task[None]]]] = {}
        self.leaving: set[str] = set()

    async def see(self, role: str, schema: str) -> None:
        """Have a role's sessions see a schema from now on."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as conn:
            looks = sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = {}")
            await conn.execute(looks.format(*map(sql.Identifier, (self.roles[role], conn.info.dbname, schema))))

    def join(self, group: str, role: str, clients: Iterable[tuple[str, Callable[[Connection], Client]]]) -> None:
        """Have a group come by a role: for each client the name under which the ledger counts it, and what makes it."""
        self.groups[group] = [(name, asyncio.create_task(self._work(group, role, make))) for name, make in clients]

    async def leave(self, *groups: str) -> None:
        """Let groups finish what they are at, and go."""
        self.leaving.update(groups)
        for group in groups:
            await asyncio.gather(*(task for _, task in self.groups.pop(group)))
        self.leaving.difference_update(groups)

    async def working(self, more: int) -> None:
        """Wait until so much more is done by every name that is there, or somebody sees an error; what broke one is raised."""
        there = [each for group in self.groups.values() for each in group]
        wanted = {name: self.ledger.done[name] + more for name, _ in there}
        async with asyncio.timeout(TIMEOUT_S):
            while any(self.ledger.done[name] < number for name, number in wanted.items()) and not self.ledger.errors:
                for task in (task for _, task in there if task.done()):
                    task.result()
                await asyncio.sleep(0.01)

    async def _work(self, group: str, role: str, make: Callable[[Connection], Client]) -> None:
        conn = await psycopg.AsyncConnection.connect(
            self.dsn, user=self.roles[role], autocommit=True, application_name=group, prepare_threshold=0
        )
        async with conn:
            client = make(conn)
            while group not in self.leaving:
                await client.act()
                await asyncio.sleep(self.pause_s)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Self]:
        """Give the roles all rights on the tables that are there; clients and roles are gone at the end."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as conn:
            await self._for_each_role(conn, *_ROLE)
            try:
                yield self
            finally:
                try:
                    await self.leave(*self.groups)
                finally:
                    await self._for_each_role(conn, "DROP OWNED BY {}", "DROP ROLE {}")

    async def _for_each_role(self, conn: Connection, *statements: str) -> None:
        for name in self.roles.values():
            for statement in statements:
                await conn.execute(sql.SQL(statement).format(sql.Identifier(name)))
