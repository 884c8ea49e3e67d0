"""Version schemas as activities see them: created with every table of a schema as the version shows it, and dropped again."""

from pgduet.activities.engine import Work
from pgduet.operations import views
from pgduet.operations.design import Design
from pgduet.operations.names import version_schema
from pgduet.operations.statement import Statement
from pgduet.postgres import catalogue, chain, store


async def open_version(work: Work, version: str, *, mine: bool) -> None:
    """Create a version's schemas and views in the caller's transaction.

    They show tables as earlier migrations leave them, and with `mine` as this one does.
    """
    conn, design = work.conn, work.migration.design
    others = await chain.live(conn, but=work.migration.id)
    earlier = [other.design for other in others if other.id < work.migration.id]
    designs = [*earlier, design] if mine else earlier
    later = [other.design for other in others if other.id > work.migration.id]
    hidden = chain.hidden_tables(designs, later if mine else [*later, design])
    for schema in design.schemas:
        if not mine and await catalogue.is_ours(conn, version_schema(schema, version)) is not None:
            continue
        for statement in views.create_schema(schema, version, await catalogue.schema_usage(conn, schema)):
            await conn.execute(statement.sql)
        for shape, changed_by, table in await chain.shapes(conn, schema, designs, hidden):
            if changed_by is design and table is not None:
                for statement in views.inner(design, table, shape.relation):
                    await conn.execute(statement.sql)
            for statement in views.view(shape, version):
                await conn.execute(statement.sql)


async def open_old_version(work: Work) -> None:
    """Create what is missing of the version that the migration starts from, then tell routers of the migration."""
    plan, design = work.migration.plan, work.migration.design
    values = {
        "migration": plan.name,
        "database": plan.database,
        "old_version": design.from_version,
        "new_version": design.to_version,
        "schemas": list(design.schemas),
    }
    async with work.conn.transaction():
        await open_version(work, design.from_version, mine=False)
    # Not before the schema is there to which routers will send clients.
    async with work.conn.transaction():
        await store.run(work.conn, "route_insert", values)
        await store.run(work.conn, "route_notify", {"migration": plan.name})


async def unpublished_before(work: Work) -> list[str]:
    """Name the earlier migrations whose version is still in the making."""
    return [other.name for other in await chain.before(work.conn, work.migration.id) if not other.published]


async def drop_version(work: Work, design: Design, version: str) -> list[Statement]:
    """Give the statements that drop a version's schemas with the views that are in them now."""
    statements: list[Statement] = []
    for schema in design.schemas:
        name = version_schema(schema, version)
        if await catalogue.is_ours(work.conn, name):
            statements += views.drop_schema(schema, version, await catalogue.views_of(work.conn, name))
    return statements
