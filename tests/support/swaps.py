"""A shadow that takes its anchor's name, and clients by three ways: by the table's name, and by either version's view."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from pgduet.operations import shadow_swap
from pgduet.operations.shadow_design import Partition, ShadowDesign
from pgduet.postgres import catalogue
from pgduet.postgres.executor import LockBudget, execute_locked
from support.shadows import PLAN, Shadow, wide

Connection = psycopg.AsyncConnection[Any]
APP, GUEST, NEWCOMER = "pgduet_app", "pgduet_guest", "pgduet_newcomer"
"""Who owns the table, who may write it, and a client of the new version: none is a superuser, as in production."""
DIRECT, OLD_VIEW, NEW_VIEW = "public.orders", "public_v1.orders", "public_v2.orders"
WAYS = (DIRECT, OLD_VIEW, NEW_VIEW)
V1, V2 = sql.Identifier("public_v1", "orders"), sql.Identifier("public_v2", "orders")
BUDGET = LockBudget(250, 60.0)
"""A try must outlast the transactions that are under way: on a busy machine sixteen clients in one process take their time."""


def same_types(**changes: Any) -> ShadowDesign:
    """Design a shadow whose columns have the anchor's types in another order: statements that name them give the same result."""
    base = wide()
    columns = {column.name: column for column in base.columns}
    kept = [
        columns["note"],
        columns["code"].model_copy(update={"default": "'none'::text"}),
        columns["amount"].model_copy(update={"type": "integer"}),
        columns["at"].model_copy(
            update={
                "type": "timestamp without time zone",
                "up": None,
                "same": "at",
                "default": "'2026-01-01 00:00:00'::timestamp without time zone",
            }
        ),
        columns["id"].model_copy(update={"type": "integer"}),
    ]
    anchors = tuple(
        anchor.model_copy(update={"down": None, "same": anchor.name, "may_raise": False}) for anchor in base.anchors
    )
    key = (base.key[0].model_copy(update={"shadow_type": "integer"}),)
    return base.model_copy(update={"columns": tuple(kept), "anchors": anchors, "key": key, **changes})


def same_types_parted() -> ShadowDesign:
    """Design the same rows, partitioned by the month."""
    bounds = [("'2026-01-01'", "'2026-02-01'"), ("'2026-02-01'", "'2026-03-01'")]
    parts = [Partition(name=f"orders_{n}", bound=f"FOR VALUES FROM ({a}) TO ({b})") for n, (a, b) in enumerate(bounds)]
    return same_types(
        partition_by="RANGE (at)",
        partition_key=("at",),
        partitions=(*parts, Partition(name="orders_rest", bound="DEFAULT")),
        primary=("id", "at"),
        unique=(),
    )


class Swapping(Shadow):
    """One shadow whose name changes, and what clients need before that."""

    budget = BUDGET
    viewed = False
    """The old version has its view."""

    async def ready(self, *, unique: bool = False) -> "Swapping":
        """Go to where both versions write: the table has an owner of its own, and the old version its view."""
        if not unique:  # then no upsert has an error of its own
            await self.conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_code_key")
        await self.conn.execute(f"ALTER TABLE public.orders OWNER TO {APP}".encode())
        await self.conn.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.orders TO {GUEST}".encode())
        await self.published()
        await self.conn.execute("CREATE SCHEMA public_v1")
        await self.conn.execute(
            b"CREATE VIEW public_v1.orders WITH (security_invoker = true) AS SELECT * FROM public.orders"
        )
        self.viewed = True
        for schema in ("public_v1", "public_v2"):
            await self.conn.execute(f"GRANT USAGE ON SCHEMA {schema} TO {APP}, {GUEST}".encode())
            await self.conn.execute(f"GRANT ALL ON {schema}.orders TO {APP}, {GUEST}".encode())
        return self

    async def swap(self) -> int:
        """Give the shadow the anchor's name; tells how many tries it took."""
        async with self._rows():
            relations = await catalogue.relations(self.conn, self.design.schema_name)
            relation = next(each for each in relations if each.table == self.design.table)
            statements = shadow_swap.swap(self.design, PLAN, 1, relation, "orders_pkey", views=[V2], timeout_ms=50)
            tries = await execute_locked(self.conn, statements, self.budget)
        self.design = shadow_swap.swapped(self.design, "orders_pkey")
        return tries

    async def swap_back(self) -> int:
        """Give the anchor its name again."""
        async with self._rows():
            statements = shadow_swap.swap_back(self.design, PLAN, 1, views=[V1] if self.viewed else [])
            tries = await execute_locked(self.conn, statements, self.budget)
        self.design = shadow_swap.unswapped(self.design)
        return tries

    @asynccontextmanager
    async def _rows(self) -> AsyncIterator[None]:
        as_before, self.conn.row_factory = self.conn.row_factory, dict_row
        try:
            yield
        finally:
            self.conn.row_factory = as_before


def make_roles(dsn: str) -> None:
    """Make the clients' roles, which outlive a test's database."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        for name in (APP, GUEST, NEWCOMER):
            made = sql.Literal(f"BEGIN IF to_regrole('{name}') IS NULL THEN CREATE ROLE {name} LOGIN; END IF; END")
            admin.execute(sql.SQL("DO {}").format(made))
        admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(APP), sql.Identifier(NEWCOMER)))
        here = sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = public_v2, public")
        admin.execute(here.format(sql.Identifier(NEWCOMER), sql.Identifier(admin.info.dbname)))


def as_role(dsn: str, role: str) -> str:
    """Give the address for a role."""
    return make_conninfo(dsn, user=role)


async def names(conn: Connection) -> list[tuple[Any, ...]]:
    """Read what is called how: relations, constraints, triggers, defaults."""
    query = """
    SELECT c.oid, c.relname::text, c.relkind::text FROM pg_class c WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT k.oid, k.conname::text, k.conrelid::regclass::text FROM pg_constraint k
     WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT t.oid, t.tgname::text, t.tgrelid::regclass::text FROM pg_trigger t WHERE NOT tgisinternal
    UNION ALL SELECT d.oid, pg_get_expr(adbin, adrelid), d.adrelid::regclass::text FROM pg_attrdef d ORDER BY 1
    """
    return await (await conn.execute(query.encode())).fetchall()


class Watch:
    """A session that looks at the others."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.conn: Connection

    async def __aenter__(self) -> Self:
        self.conn = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.conn.close()

    async def until(self, query: str, value: object) -> None:
        """Wait until a query gives a value."""
        async with asyncio.timeout(30):
            while (await (await self.conn.execute(query.encode())).fetchone()) != (value,):
                await asyncio.sleep(0.01)


class Waits:
    """How long a client by the table's name waits for its statement, at most, in milliseconds."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self.done = 0

    @asynccontextmanager
    async def measured(self, dsn: str, statement: str) -> AsyncIterator["Waits"]:
        """Work on one connection while the block runs."""
        stopped = False

        async def work() -> None:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
                while not stopped:
                    began = time.monotonic()
                    await conn.execute(statement.encode(), prepare=True)
                    self.longest_ms = max(self.longest_ms, (time.monotonic() - began) * 1000)
                    self.done += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            try:
                yield self
            finally:
                stopped = True
