"""The mechanics of one attach without its workflow: each step as the engine renders it, on a table of events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from pgduet.operations import attach, attach_final
from pgduet.operations.attach import Carried
from pgduet.operations.attach_design import AttachDesign, resolve
from pgduet.operations.statement import Statement
from pgduet.operations.views import Relation
from pgduet.plan.shadow_operations import ShadowTable
from pgduet.postgres import attaching, catalogue
from pgduet.sql import block

Connection = psycopg.AsyncConnection[Any]
VIEWS = """
CREATE SCHEMA public_v1; CREATE SCHEMA public_v2;
COMMENT ON SCHEMA public_v1 IS 'pgduet version 1 of public'; COMMENT ON SCHEMA public_v2 IS 'pgduet version 2 of public';
CREATE VIEW public_v1.events WITH (security_invoker = true) AS SELECT id, at, kind, note FROM public.events;
GRANT USAGE ON SCHEMA public_v1, public_v2 TO PUBLIC;
"""
EVENTS = """
CREATE TABLE public.events (
    id   int GENERATED {how} AS IDENTITY (INCREMENT BY 2) PRIMARY KEY,
    at   timestamp NOT NULL DEFAULT timestamp '2026-01-01',
    kind int NOT NULL DEFAULT 1,
    note text,
    CONSTRAINT positive CHECK (kind > 0)
);
CREATE INDEX events_note_idx ON public.events (lower(note)) WHERE kind > 0;
"""
MONTHS = {
    "events_2026": "FOR VALUES FROM (MINVALUE) TO ('2027-01-01')",
    "events_2027": "FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
    "events_rest": "DEFAULT",
}


def design(**changes: Any) -> AttachDesign | str:
    """Design what a plan asks for."""
    by = {"method": "range", "columns": ["at"], "partitions": MONTHS} | changes.pop("partition_by", {})
    raw = {"table": "public.events", "primary_key": ["id", "at"], "partition_by": by} | changes
    return resolve("by-year", 0, ShadowTable.model_validate(raw), ("id",))


@dataclass
class Attach:
    """One attach; every step is the caller's to run."""

    conn: Connection
    design: AttachDesign

    async def run(self, statements: Sequence[Statement]) -> None:
        """Run statements in one transaction."""
        async with self.conn.transaction():
            for statement in statements:
                await self.conn.execute(statement.sql)

    async def one(self, query: str, *values: Any) -> tuple[Any, ...]:
        """Ask for one row."""
        row = await (await self.conn.execute(query.encode(), values or None)).fetchone()
        assert row is not None
        return tuple(row)

    async def carried(self) -> Carried:
        """Read what the table has."""
        self.conn.row_factory = dict_row
        try:
            return await attaching.carried(self.conn, self.design)
        finally:
            self.conn.row_factory = psycopg.rows.tuple_row

    async def relation(self) -> Relation:
        """Read the table as views need it; once it is a partition, it is not listed any more."""
        self.conn.row_factory = dict_row
        relations = await catalogue.relations(self.conn, self.design.schema_name)
        self.conn.row_factory = psycopg.rows.tuple_row
        return next(each for each in relations if each.table == self.design.table)

    async def in_the_way(self) -> tuple[str, ...]:
        """Ask what is refused."""
        self.conn.row_factory = dict_row
        try:
            return await attaching.in_the_way(self.conn, self.design)
        finally:
            self.conn.row_factory = psycopg.rows.tuple_row

    async def condition(self) -> str:
        """Ask what the first partition's rows keep."""
        self.conn.row_factory = dict_row
        try:
            return await attaching.condition(self.conn, self.design)
        finally:
            self.conn.row_factory = psycopg.rows.tuple_row

    async def expanded(self) -> None:
        """Build what nobody sees."""
        carried = await self.carried()
        await self.conn.execute(attach.build_key(self.design).sql)
        await self.run(attach.create_parent(self.design, carried))

    async def published(self) -> Carried:
        """Show the parent to the new version; gives what a withdrawal needs."""
        await self.expanded()
        carried, relation = await self.carried(), await self.relation()
        columns = sql.SQL(", ").join(sql.Identifier(name) for name in relation.columns)
        view = block("views", "view").format(
            view=sql.Identifier("public_v2", "events"), columns=columns, relation=self.design.parent
        )
        await self.run([*attach.publish(self.design, carried), Statement(view, "view")])
        await self.conn.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON public_v2.events TO PUBLIC")
        return carried

    async def withdrawn(self, carried: Carried) -> None:
        """Go back to the beginning."""
        await self.conn.execute("DROP VIEW public_v2.events")
        await self.run(attach.withdraw(self.design, carried.numbering))
        await self.conn.execute(attach.drop_key(self.design).sql)

    async def finished(self, published: Carried) -> None:
        """Contract."""
        now = await self.carried()
        carried = now.model_copy(update={"numbering": published.numbering})
        await self.run([attach.bind(self.design, await self.condition())])
        await self.conn.execute(attach.validate(self.design).sql)
        await self.conn.execute("DROP VIEW public_v1.events")
        await self.run(attach_final.finish(self.design, carried))
        for chunk in attach_final.chunks(self.design)[1:]:
            await self.run(attach_final.further(self.design, carried, chunk))
