"""expand: adds the new columns, empty and unbound, so that nobody notices; undo drops them.

The first migration of a chain also creates the version schema of the version it starts from. An undo leaves that schema:
it shows the tables as they are, and clients may have come to use it.
"""

from collections.abc import Callable

from temporalio import activity

from pgduet.activities.engine import Engine, Work
from pgduet.barriers import reach
from pgduet.messages import Outcome, Reference
from pgduet.operations import columns, views
from pgduet.operations.design import TableDesign
from pgduet.operations.names import version_schema
from pgduet.operations.statement import Statement
from pgduet.postgres import catalogue, store
from pgduet.postgres.session import Connection


class Expand:
    """Adds columns and drops them again."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="expand")
    async def expand(self, reference: Reference) -> Outcome:
        """Add the new columns of every table; each table in a transaction of its own."""
        async with self.engine.work(reference, "expand", alone=True) as work:
            await _first_version(work)
            await _open_route(work)
            return await _each_table(work, columns.add, "expand", "added")

    @activity.defn(name="undo_expand")
    async def undo_expand(self, reference: Reference) -> Outcome:
        """Drop the new columns."""
        async with self.engine.work(reference, "undo_expand", alone=True) as work:
            return await _each_table(work, columns.drop, "undo_expand", "dropped")


async def _first_version(work: Work) -> None:
    version = work.migration.design.from_version
    for schema in work.migration.design.schemas:
        async with work.conn.transaction():
            name = version_schema(schema, version)
            if await catalogue.is_ours(work.conn, name) is not None:
                continue
            for statement in views.create_schema(schema, version, await catalogue.schema_usage(work.conn, schema)):
                await work.conn.execute(statement.sql)
            for relation in await catalogue.relations(work.conn, schema):
                for statement in views.plain_view(relation, version):
                    await work.conn.execute(statement.sql)


async def _open_route(work: Work) -> None:
    """Tell routers of the migration; not before the schema is there to which they will send clients."""
    plan, design = work.migration.plan, work.migration.design
    values = {
        "migration": plan.name,
        "database": plan.database,
        "old_version": design.from_version,
        "new_version": design.to_version,
        "schemas": list(design.schemas),
    }
    async with work.conn.transaction():
        await store.run(work.conn, "route_insert", values)
        await store.run(work.conn, "route_notify", {"migration": plan.name})


async def _each_table(
    work: Work, statements_for: Callable[[TableDesign], list[Statement]], step: str, verb: str
) -> Outcome:
    tries = 0
    heads: list[str] = []
    for table in work.migration.design.tables:
        statements = statements_for(table)

        async def also(conn: Connection, table: TableDesign = table) -> None:
            names = [column.name for column in table.new_columns]
            affected: dict[str, object] = {"table": table.label, "columns": names}
            heads.append(await store.audited(conn, work.reference, step, affected=affected))
            await reach(f"{step}.before_commit")

        tries += await work.locked(statements, also)
        await reach(f"{step}.after_commit")
    count = sum(len(table.new_columns) for table in work.migration.design.tables)
    return Outcome(summary=f"{verb} {count} columns", evidence={"lock_tries": tries}, audit_head=heads[-1])
