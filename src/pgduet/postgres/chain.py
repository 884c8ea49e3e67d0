"""The version chain of a database: which migrations are live, in which order, and how each version shows each table.

Versions form one line. A migration builds on the newest version; while an earlier one is still in overlap, the later one's views
show the earlier one's tables by way of its inner views, so that an insert through any newer version is known as such.

Whatever changes who stands in the line takes one lock (`hold`) for the transaction: the start of a migration, the beginning of a
rollback, the beginning of a contract. So none of them decides upon what another one is about to change.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pgduet.messages import Abort
from pgduet.neighbours import Neighbour
from pgduet.operations import views
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.names import version_schema
from pgduet.phases import Authority
from pgduet.postgres import catalogue, store
from pgduet.postgres.session import Connection


@dataclass(frozen=True, slots=True)
class Live:
    """A migration that has not ended."""

    id: int
    name: str
    phase: str
    state: str
    authority: str
    published: bool
    workflow_id: str
    plan: dict[str, Any]
    controls: dict[str, Any]
    design: Design

    @property
    def no_return(self) -> bool:
        """Tell whether contract has begun."""
        return bool(self.controls.get("no_return"))

    @property
    def going_back(self) -> Abort | None:
        """Give the decision to roll back, once it is taken; the undos may not have begun yet."""
        return store.going_back(self.controls, self.state)

    @property
    def flipped(self) -> bool:
        """Tell whether the new version has the authority: from cutover on."""
        return self.authority == Authority.NEW

    def has_contracted(self, label: str) -> bool:
        """Tell whether contract has given a table its final shape."""
        return bool(self.controls.get(f"contracted {label}"))

    def standing(self, why: str = "") -> Neighbour:
        """Tell others where it stands."""
        where = "rolling back" if self.going_back else f"in {self.phase}"
        return Neighbour(name=self.name, phase=self.phase, detail=f"{self.name} ({why or where})")


@dataclass(frozen=True, slots=True)
class Link:
    """A migration that was not rolled back, live or done."""

    id: int
    name: str
    from_version: str
    to_version: str
    phase: str
    ended: bool
    no_return: bool


async def hold(conn: Connection) -> None:
    """Keep everybody else from changing who stands in the chain, until the transaction ends."""
    await store.run(conn, "lock_chain")


async def live(conn: Connection, *, but: int | None = None) -> list[Live]:
    """Read the migrations that have not ended, the oldest first."""
    return [
        Live(
            id=row["id"],
            name=row["name"],
            phase=row["phase"],
            state=row["state"],
            authority=row["authority"],
            published=row["published_at"] is not None,
            workflow_id=row["workflow_id"],
            plan=row["plan"],
            controls=row["controls"],
            design=Design.model_validate(row["design"]),
        )
        for row in await store.run(conn, "live")
        if row["id"] != but
    ]


async def links(conn: Connection) -> list[Link]:
    """Read the chain, the oldest first."""
    return [Link(**row) for row in await store.run(conn, "links")]


async def past_return(conn: Connection, migration_id: int) -> Link | None:
    """Give the first later migration that is past its point of no return: what it builds on can only go on."""
    later = (link for link in await links(conn) if link.id > migration_id)
    return next((link for link in later if link.ended or link.no_return), None)


def versions(chained: Iterable[Link]) -> list[str]:
    """Name the versions of the chain, the oldest first."""
    found = (version for link in chained for version in (link.from_version, link.to_version))
    return list(dict.fromkeys(found))


async def before(conn: Connection, migration_id: int) -> list[Live]:
    """Give the live migrations upon which this one builds, the oldest first."""
    return [other for other in await live(conn) if other.id < migration_id]


async def after(conn: Connection, migration_id: int) -> list[Live]:
    """Give the live migrations that build upon this one, the newest first."""
    return [other for other in reversed(await live(conn)) if other.id > migration_id]


# Version schemas


@dataclass(frozen=True, slots=True)
class Sides:
    """Our version schemas as one migration sees them: those of clients that know its change, and those of clients that do not."""

    old: list[catalogue.VersionSchema]
    new: list[catalogue.VersionSchema]
    base: str
    """The version whose clients name base tables: the oldest one that lives."""


async def sides(conn: Connection, migration: store.Migration) -> Sides:
    """Sort our version schemas; one that the chain does not know shows tables as they were, and counts as old."""
    chained = await links(conn)
    order = versions(chained)
    design = migration.design
    newer = {design.to_version, *order[order.index(design.to_version) :]} if design.to_version in order else set[str]()
    schemas = await catalogue.version_schemas(conn)
    oldest = next((link.from_version for link in chained if not link.ended), design.from_version)
    return Sides(
        [each for each in schemas if each.version not in newer],
        [each for each in schemas if each.version in newer],
        oldest,
    )


async def shapes(
    conn: Connection, schema: str, known: Sequence[Live | Design], hidden: frozenset[str]
) -> list[tuple[views.Shape, Design | None, TableDesign | None]]:
    """Give how a version shows a schema's tables: each changed by one of `known`, or as it is.

    `hidden` are the quoted names of tables that the version does not have. A table that contract has finished is as it is.
    """
    changed = {}
    for one in known:
        design = one if isinstance(one, Design) else one.design
        for table in design.tables:
            if isinstance(one, Design) or not one.has_contracted(table.label):
                changed[table.label] = design, table
    found: list[tuple[views.Shape, Design | None, TableDesign | None]] = []
    for relation in await catalogue.relations(conn, schema):
        if relation.label in hidden:
            continue
        if relation.label in changed:
            design, table = changed[relation.label]
            found.append((views.changed(design, table, relation), design, table))
        else:
            found.append((views.plain(relation), None, None))
    return found


def hidden_tables(designs: Sequence[Design], later: Sequence[Design]) -> frozenset[str]:
    """Name the tables that a version does not have: dropped by one of its migrations, or created by a later one."""
    dropped = {table.label for design in designs for table in design.dropped}
    return frozenset(dropped | {table.label for design in later for table in design.created})


async def versions_showing(conn: Connection, design: Design, table: TableDesign, migration_id: int) -> list[str]:
    """Name the versions whose views show a table as this migration left it: its own, and later ones, the newest first.

    A later migration may be done already: its version stays.
    """
    return await versions_with(conn, design, migration_id, table.schema_name, table.shown_as)


async def versions_with(conn: Connection, design: Design, migration_id: int, schema: str, name: str) -> list[str]:
    """Name the versions, this migration's and later ones, that have a view of a name."""
    later = [link.to_version for link in reversed(await links(conn)) if link.id > migration_id]
    wanted = [*later, design.to_version]
    return [version for version in wanted if await catalogue.has_view(conn, version_schema(schema, version), name)]
