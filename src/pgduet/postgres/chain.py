"""The version chain of a database: which migrations are live, in which order, and how each version shows each table.

Versions form one line. A migration builds on the newest version; while an earlier one is still in overlap, the later one's views
show the earlier one's tables by way of its inner views, so that an insert through any newer version is known as such.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pgduet.errors import PlanConflict
from pgduet.operations import views
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.names import version_schema
from pgduet.plan.models import Plan
from pgduet.postgres import catalogue, store
from pgduet.postgres.session import Connection


@dataclass(frozen=True, slots=True)
class Live:
    """A migration that has not ended."""

    id: int
    name: str
    phase: str
    state: str
    published: bool
    contracted: bool
    design: Design


async def live(conn: Connection, *, but: int | None = None) -> list[Live]:
    """Read the migrations that have not ended, the oldest first."""
    return [
        Live(
            id=row["id"],
            name=row["name"],
            phase=row["phase"],
            state=row["state"],
            published=row["published_at"] is not None,
            contracted=bool(row["controls"].get("no_return")),
            design=Design.model_validate(row["design"]),
        )
        for row in await store.run(conn, "live")
        if row["id"] != but
    ]


async def check_chain(conn: Connection, plan: Plan, design: Design) -> None:
    """Refuse a plan that does not continue the chain, or that touches what a live migration changes.

    Raises:
        PlanConflict: naming the other migration.
    """
    others = await live(conn)
    for other in others:
        if shared := sorted(design.touched & other.design.touched):
            raise PlanConflict(
                f"migration {other.name} is live (in {other.phase}) and changes {shared[0]} too",
                hint=f"Wait until {other.name} is done or rolled back: pgduet status {other.name}",
            )
    await _check_versions(conn, plan, others)


async def _check_versions(conn: Connection, plan: Plan, others: list[Live]) -> None:
    ended = await store.run(conn, "newest_done")
    newest = others[-1].design.to_version if others else ended[0]["to_version"] if ended else None
    known = {other.design.from_version for other in others} | {other.design.to_version for other in others}
    if newest is not None and plan.version.from_ != newest:
        why = f"migration {others[-1].name} makes it" if others else "all before it have ended"
        raise PlanConflict(
            f"versions form one chain: the newest is {newest} ({why}), this plan begins at {plan.version.from_}",
            hint=f'Let the plan begin there: version: {{from: "{newest}", to: …}}.',
        )
    if plan.version.to in known:
        raise PlanConflict(
            f"version {plan.version.to} is there already", hint="Give the plan's new version another name."
        )
    if others and others[-1].state == "rolling_back":
        raise PlanConflict(
            f"version {newest} is going: migration {others[-1].name} is being rolled back",
            hint=f"Wait until it has: pgduet wait {others[-1].name} --phase rolled_back",
        )


async def shapes(
    conn: Connection, schema: str, designs: Sequence[Design], hidden: frozenset[str]
) -> list[tuple[views.Shape, Design | None, TableDesign | None]]:
    """Give how a version shows a schema's tables: each changed by one of `designs`, or as it is.

    `hidden` are the quoted names of tables that the version does not have.
    """
    changed = {table.label: (design, table) for design in designs for table in design.tables}
    found: list[tuple[views.Shape, Design | None, TableDesign | None]] = []
    for relation in await catalogue.relations(conn, schema):
        if relation.label in hidden:
            continue
        if known := changed.get(relation.label):
            design, table = known
            found.append((views.changed(design, table, relation), design, table))
        else:
            found.append((views.plain(relation), None, None))
    return found


async def before(conn: Connection, migration_id: int) -> list[Live]:
    """Give the live migrations upon which this one builds."""
    return [other for other in await live(conn) if other.id < migration_id]


async def after(conn: Connection, migration_id: int) -> list[Live]:
    """Give the live migrations that build upon this one, the newest first."""
    return [other for other in reversed(await live(conn)) if other.id > migration_id]


def hidden_tables(designs: Sequence[Design], later: Sequence[Design]) -> frozenset[str]:
    """Name the tables that a version does not have: dropped by one of its migrations, or created by a later one."""
    dropped = {table.label for design in designs for table in design.dropped}
    return frozenset(dropped | {table.label for design in later for table in design.created})


async def versions_showing(conn: Connection, design: Design, table: TableDesign, migration_id: int) -> list[str]:
    """Name the versions whose views show a table as this migration left it: its own, and later ones, the newest first."""
    versions = [other.design.to_version for other in await after(conn, migration_id)]
    wanted = [*versions, design.to_version]
    return [
        version
        for version in wanted
        if await catalogue.has_view(conn, version_schema(table.schema_name, version), table.shown_as)
    ]
