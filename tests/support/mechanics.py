"""The mechanics of one migration without its workflow: each step as the engine's own modules render and execute it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

from psycopg import sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from pgduet.messages import Parity
from pgduet.operations import columns, sync, views
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.names import trigger_name
from pgduet.operations.statement import Statement
from pgduet.phases import Authority, SyncMode
from pgduet.plan.checksum import checksum
from pgduet.plan.models import Plan
from pgduet.postgres import catalogue, parity, store
from pgduet.postgres.batches import Batches
from pgduet.postgres.commonest import commonest_values
from pgduet.postgres.databases import Database
from pgduet.postgres.pace import Pace
from pgduet.postgres.session import Connection, session
from pgduet.postgres.survey import survey
from support.plans import parsed


class Mechanics:
    """A migration of one table, opened as preflight does it; every step is the caller's to run."""

    def __init__(self, conn: Connection, migration: store.Migration) -> None:
        self.conn = conn
        self.migration = migration

    @property
    def design(self) -> Design:
        """The migration's design."""
        return self.migration.design

    @property
    def table(self) -> TableDesign:
        """Its only table."""
        (table,) = self.design.tables
        return table

    def physical(self, column: str) -> str:
        """Name a column in the making."""
        return self.table.physical[column]

    async def run(self, statements: Sequence[Statement]) -> None:
        """Run statements in one transaction."""
        async with self.conn.transaction():
            for statement in statements:
                await self.conn.execute(statement.sql)

    async def expand(self, *, begun: bool = False) -> None:
        """Add the columns; with `begun`, rows that exist begin with what `up` gives most often."""
        common = await commonest_values(self.conn, self.table) if begun else {}
        await self.run(columns.add(self.table, {physical: one.value for physical, one in common.items()}))

    async def install(self, mode: SyncMode) -> None:
        """Install the triggers in a form."""
        await self.run(sync.install(self.design, self.table, self.migration.id, mode))

    async def publish(self) -> None:
        """Open the new version's schema."""
        schema, version = self.table.schema_name, self.design.to_version
        await self.run(views.create_schema(schema, version, ()))
        for relation in await catalogue.relations(self.conn, schema):
            if relation.table == self.table.table:
                await self.run(views.inner(self.design, self.table, relation))
                await self.run(views.view(views.changed(self.design, self.table, relation), version))

    async def published(self, mode: SyncMode = SyncMode.BOTH) -> None:
        """Go all the way to where both versions write."""
        await self.expand()
        await self.install(SyncMode.FILL)
        await self.backfill()
        await self.install(mode)
        await self.publish()

    async def cut(self, parts: int = 1) -> None:
        """Cut the table into ranges."""
        size = (await store.run(self.conn, "pages", {"relation": self.table.label}))[0]["pages"]
        for part in range(parts):
            bounds = {"block_from": size * part // parts, "block_to": size * (part + 1) // parts}
            values = {"id": self.migration.id, "relation": self.table.label, "part": part, **bounds}
            await store.run(self.conn, "ranges_insert", values)

    async def batches(self, part: int = 0) -> Batches:
        """Open a range."""
        batches = Batches(self.conn, self.migration, self.table, part)
        await batches.open()
        return batches

    @property
    def pace(self) -> Pace:
        """The plan's pace, without pauses."""
        return Pace.of(self.migration.policy).adjusted({"pause_ms": 0})

    async def finish(self, batches: Batches) -> None:
        """Fill a range to its end."""
        while not batches.finished:
            await batches.next(self.pace)

    async def backfill(self) -> int:
        """Fill the whole table; tells how many rows were written."""
        await self.cut()
        batches = await self.batches()
        await self.finish(batches)
        for setting in ("session_replication_role", "synchronous_commit", "lock_timeout", "statement_timeout"):
            await self.conn.execute(f"RESET {setting}".encode())
        return batches.rows

    async def compare(self, mode: SyncMode = SyncMode.BOTH) -> Parity:
        """Compare all rows."""
        found = await parity.compare(self.conn, self.migration, mode, lambda _: None)
        async with self.conn.transaction():
            await parity.keep(self.conn, self.migration, found, found.parity)
        return found.parity

    async def repair(self, authority: Authority = Authority.OLD, mode: SyncMode = SyncMode.BOTH) -> int:
        """Repair what differs."""
        return await parity.repair(self.conn, self.migration, mode, authority, lambda _: None)

    async def rows(self, query: str, values: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Ask for rows, as tuples."""
        async with self.conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(query.encode(), values)
            return await cursor.fetchall()

    async def unseen(self, query: str, values: Sequence[Any] | None = None) -> None:
        """Write as nobody can: past every trigger."""
        names = [trigger_name(self.design.name, kind) for kind in ("insert", "update")]
        async with self.conn.transaction():
            await self.conn.execute("SET LOCAL session_replication_role = replica")
            await self._triggers("DISABLE TRIGGER", names)
            await self.conn.execute(query.encode(), values)
            await self._triggers("ENABLE ALWAYS TRIGGER", names)

    async def _triggers(self, how: LiteralString, names: list[str]) -> None:
        for name in names:
            change = sql.SQL("ALTER TABLE {} " + how + " {}").format(self.table.relation, sql.Identifier(name))
            await self.conn.execute(change)

    async def drift(self) -> list[tuple[Any, ...]]:
        """Read open notes of drift: key and kind."""
        return await self.rows("SELECT key, kind FROM pgduet.drift WHERE resolved_at IS NULL ORDER BY key::text")


@asynccontextmanager
async def mechanics(dsn: str, *operations: dict[str, Any], **policy: Any) -> AsyncIterator[Mechanics]:
    """Open a migration of the plan that `plans.plan` writes."""
    async with session(Database("shop", dsn), "test", bare=True) as conn:
        plan = parsed(*operations, **policy)
        await store.set_up(conn)
        surveyed = await survey(conn, plan)
        values = _row(plan, surveyed.design)
        migration_id = (await store.run(conn, "insert", values))[0]["id"]
        await conn.execute("SET search_path = ''")
        migration = await store.latest(conn, plan.name)
        assert migration is not None
        assert migration.id == migration_id
        yield Mechanics(conn, migration)


def _row(plan: Plan, design: Design) -> dict[str, Any]:
    return {
        "name": plan.name,
        "database": plan.database,
        "attempt": 1,
        "checksum": checksum(plan),
        "from_version": plan.version.from_,
        "to_version": plan.version.to,
        "plan": Jsonb(plan.model_dump(mode="json", by_alias=True)),
        "design": Jsonb(design.model_dump(mode="json")),
        "workflow_id": "test",
    }
