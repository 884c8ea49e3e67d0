"""Version schemas as activities see them: created with every table of a schema as the version shows it, and dropped again."""

from collections.abc import Sequence

from pgduet.activities.engine import Work
from pgduet.activities.shapes import Shape, shapes_of
from pgduet.operations import views
from pgduet.operations.design import Design
from pgduet.operations.names import version_schema
from pgduet.operations.statement import Statement
from pgduet.plan.names import parse_table
from pgduet.postgres import catalogue, chain, store
from pgduet.postgres.session import Connection


async def open_version(work: Work, version: str, *, mine: bool) -> None:
    """Create a version's schemas and views in the caller's transaction.

    They show tables as earlier migrations leave them, and with `mine` as this one does.
    """
    conn, design = work.conn, work.migration.design
    others = await chain.live(conn, but=work.migration.id)
    earlier = [other for other in others if other.id < work.migration.id]
    known: list[chain.Live | Design] = [*earlier, design] if mine else [*earlier]
    later = [other.design for other in others if other.id > work.migration.id]
    designs = [*(other.design for other in earlier), *([design] if mine else [])]
    shapes = _shapes(known)
    hidden = chain.hidden_tables(designs, later if mine else [*later, design])
    hidden |= design.own.union(*(other.design.own for other in others), *(shape.hidden for shape in shapes))
    for schema in design.schemas:
        if not mine and await catalogue.is_ours(conn, version_schema(schema, version)) is not None:
            continue
        for statement in views.create_schema(schema, version, await catalogue.schema_usage(conn, schema)):
            await conn.execute(statement.sql)
        for shape, changed_by, table in await chain.shapes(conn, schema, known, hidden):
            if changed_by is design and table is not None:
                for statement in views.inner(design, table, shape.relation):
                    await conn.execute(statement.sql)
            for statement in views.view(shape, version):
                await conn.execute(statement.sql)
        await _show(conn, [shape for shape in shapes if shape.schema_name == schema], version)


def _shapes(known: Sequence[chain.Live | Design]) -> list[Shape]:
    """Give the shapes that a version shows: those of its migrations, until contract."""
    found: list[Shape] = []
    for one in known:
        if isinstance(one, Design):
            found += shapes_of(one)
        else:
            found += [shape for shape in shapes_of(one.design) if not one.has_contracted(shape.label)]
    return found


async def _show(conn: Connection, shapes: list[Shape], version: str) -> None:
    """Create the views of tables that have another shape, all of one schema."""
    if shapes:
        relations = {each.label: each for each in await catalogue.relations(conn, shapes[0].schema_name)}
    for shape in shapes:
        for statement in await shape.views(conn, relations, version):
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
    """Give the statements that drop a version's schemas, a later migration's included, with the views that are in them now."""
    statements: list[Statement] = []
    shown = await catalogue.schemas_of_version(work.conn, version)
    for schema in dict.fromkeys([*design.schemas, *shown]):
        name = version_schema(schema, version)
        if await catalogue.is_ours(work.conn, name):
            statements += views.drop_schema(schema, version, await catalogue.views_of(work.conn, name))
    return statements


async def drop_older_views(work: Work, design: Design) -> list[Statement]:
    """Give the statements that drop what versions before this migration's own two show of the tables that it contracts.

    An earlier migration that is still in overlap keeps its old version's schema, but that cannot show columns that are gone.
    """
    names = [*(table.label for table in design.tables), *(table.label for table in design.dropped)]
    names += [shape.label for shape in shapes_of(design)]
    tables = {parse_table(name) for name in names}
    older = (await chain.sides(work.conn, work.migration)).old
    return [
        views.drop_view(each.name, table.name)
        for each in older
        if each.version != design.from_version
        for table in sorted(tables)
        if table.schema == each.shows and await catalogue.has_view(work.conn, each.name, table.name)
    ]
