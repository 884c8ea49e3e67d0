"""A source table and its shadow as tests have them: made by SQL, compared and repaired by the engine's own modules."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg.rows import tuple_row

from pgduet.messages import Reference
from pgduet.operations.comparison import Comparison, Mapping, between
from pgduet.phases import Authority
from pgduet.postgres import comparing, store, suspects
from pgduet.postgres.databases import Database
from pgduet.postgres.session import Connection, session
from pgduet.postgres.suspects import Repaired, Settled
from pgduet.postgres.traits import traits

MIGRATION = 1
REFERENCE = Reference(database="shop", name="reshape", migration_id=MIGRATION, actor="tester", reason="drift was found")


class Twins:
    """Two tables, and what compares them."""

    def __init__(self, conn: Connection, comparison: Comparison) -> None:
        self.conn = conn
        self.comparison = comparison
        self.parts: list[int] = []
        self.counts = comparing.Counts()
        self.chunks = 0

    async def compare(self, parts: int = 1, *, anew: bool = True, chunk_ms: float = 50.0) -> comparing.Counts:
        """Compare all parts, one after the other."""
        self.parts = await comparing.begin(self.conn, self.comparison, MIGRATION, parts, anew=anew)
        self.counts, self.chunks = comparing.Counts(), 0
        for part_id in self.parts:
            async with comparing.opened(self.conn, self.comparison, part_id, chunk_ms=chunk_ms) as part:
                while not part.finished:
                    await part.next()
                self.counts += part.counts
                self.chunks += part.chunks
        return self.counts

    async def settle(self, after_s: float = 0.0, looks: int = suspects.LOOKS) -> Settled:
        """Look again."""
        return await suspects.settle(self.conn, self.comparison, self.parts, after_s=after_s, looks=looks)

    async def drifted(self) -> list[tuple[str, Any]]:
        """Compare, settle, and name what is confirmed."""
        await self.compare()
        await self.settle()
        return await self.named()

    async def named(self) -> list[tuple[str, Any]]:
        """Name what is confirmed."""
        return await self.rows(
            "SELECT kind, key FROM pgduet.suspect WHERE confirmed_at IS NOT NULL AND comparison_id = ANY (%s)"
            " ORDER BY kind, key::text",
            (self.parts,),
        )

    async def repair(self, authority: Authority = Authority.OLD) -> Repaired:
        """Repair what is confirmed."""
        return await suspects.repair(self.conn, self.comparison, REFERENCE, self.parts, authority)

    async def rows(self, query: str, values: Any = None) -> list[tuple[Any, ...]]:
        """Ask for rows, as tuples."""
        async with self.conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(query.encode(), values)
            return await cursor.fetchall()


@asynccontextmanager
async def twins(
    dsn: str,
    source: tuple[str, str] = ("public", "old"),
    shadow: tuple[str, str] = ("public", "new"),
    key: tuple[str, ...] = ("id",),
    mappings: tuple[Mapping, ...] = (),
    **other: Any,
) -> AsyncIterator[Twins]:
    """Open the comparison of two tables that are there."""
    async with session(Database("shop", dsn), "test") as conn:
        await store.set_up(conn)
        quoted = ['"' + '"."'.join(part.replace('"', '""') for part in name) + '"' for name in (source, shadow)]
        columns = [await traits(conn, name) for name in quoted]
        yield Twins(conn, between(*columns, key, mappings, source=source, shadow=shadow, **other))
