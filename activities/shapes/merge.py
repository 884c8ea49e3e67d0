"""A merge: groups of rows become one row each of another table, `merge_rows` (ADR 32).

Old clients' writes note their group from dual_write on; the new version reads noted groups from the source. What brings the target
up to date is a workflow of its own (`activities.draining`), begun with the publication: nothing waits for it, and nothing is
wrong without it. Merged rows cannot be written before contract, so a rollback has nothing to archive.
"""

import time
from collections.abc import Mapping, Sequence

from psycopg import sql

from pgduet.activities.building import beside_clients, build_beside
from pgduet.activities.draining import begin
from pgduet.activities.engine import Work
from pgduet.activities.shapes import parity
from pgduet.activities.shapes.shape import Progress, Range, Shape
from pgduet.activities.shapes.steps import BOTH_WAYS, CONTRACT, DUAL_WRITE, EXPAND, UNDO_DUAL_WRITE, UNDO_EXPAND, locked
from pgduet.measured import Parity, ShadowResult
from pgduet.messages import Part
from pgduet.operations import merge_rows, merge_rows_resolve
from pgduet.operations.design import Design
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.names import archived_table, version_schema
from pgduet.operations.statement import Statement
from pgduet.operations.views import Relation
from pgduet.operations.whole_tables import DroppedTable
from pgduet.postgres import catalogue, chain, merging, merging_reads, store
from pgduet.postgres.brakes import Brakes
from pgduet.postgres.filling import Filling
from pgduet.postgres.moving import archive_table
from pgduet.postgres.pace import Pace
from pgduet.postgres.session import Connection


class Merge(Shape):
    """One of them, in each phase."""

    def __init__(self, plan: Design, design: MergeDesign) -> None:
        """Take the whole migration's design, and this part of it."""
        super().__init__(plan, design)
        self.design = design

    # expand

    async def expand(self, work: Work) -> None:
        """Create target and journal, then the index over the key where the source has none."""
        design = self.design
        if not await merging.has_journal(work.conn, design):
            await locked(work, merge_rows.create(design), EXPAND, self.label)
        if design.index is not None:
            (create,), (drop,) = merge_rows.index(design), merge_rows.drop_index(design)
            await build_beside(work, design, design.index, create, drop)

    async def undo_expand(self, work: Work) -> None:
        """Drop them the other way round."""
        design = self.design
        if design.index is not None:
            for statement in merge_rows.drop_index(design):
                await beside_clients(work, statement)
        if await merging.has_journal(work.conn, design):
            await locked(work, merge_rows.drop(design), UNDO_EXPAND, self.label)

    # dual_write

    async def dual_write(self, work: Work) -> int:
        """Have old clients' writes note their groups."""
        await self._refuse_other_types(work.conn)
        return await locked(work, merge_rows.triggers(self.design, self.plan.name), DUAL_WRITE, self.label)

    async def undo_dual_write(self, work: Work) -> None:
        """Note no more."""
        await locked(work, merge_rows.drop_triggers(self.design, self.plan.name), UNDO_DUAL_WRITE, self.label)

    async def probe(self, conn: Connection) -> str:
        """Take a row away and look for its group's note; both are rolled back."""
        return await merging_reads.probe(conn, self.design)

    # backfill

    async def ranges(self, conn: Connection, wide: int) -> list[Range]:
        """Give the one range of the groups; it goes by keys, and its steps are the source's rows, about."""
        del wide
        return [Range(self.label, 0, 0, await merging.steps(conn, self.design))]

    async def filling(self, work: Work, part: Part) -> Filling | None:
        """Give what fills it."""
        if part.relation != self.label:
            return None
        return merging.GroupFilling(work.conn, work.migration.id, self.design)

    async def filled(self, work: Work) -> None:
        """Write the groups that clients changed meanwhile, until few are left."""
        await self._catch_up(work)

    async def weight(self, conn: Connection) -> int:
        """Count the target's pages."""
        return await merging_reads.pages(conn, self.design)

    # verify

    async def compare(self, work: Work, progress: Progress, brakes: Brakes, *, repair: bool) -> Parity | None:
        """Compare every group with what the new version shows; a repair notes it, so that it is read from the source at once."""
        return await parity.of_merge(work, self.design, progress, brakes, repair=repair)

    async def prepare_publication(self, work: Work) -> None:
        """See that the merged rows are brought up to date from now on."""
        await self._refuse_other_types(work.conn)
        await locked(work, [], BOTH_WAYS, self.label)
        await begin(work.reference)

    async def views(self, conn: Connection, relations: Mapping[str, Relation], version: str) -> Sequence[Statement]:
        """Show the merged rows in the source's place."""
        del conn
        relation = relations[self.label]
        owner = relation.owner if relation.may_give else None
        return merge_rows.view(self.design, self._view(version), relation, owner, self.plan.name)

    async def probe_back(self, conn: Connection) -> str:
        """Nothing is written back: who tries is refused."""
        del conn
        return "read-only until contract"

    async def closing(self, work: Work) -> Sequence[Statement]:
        """Drop what refused writes through the views."""
        del work
        return merge_rows.drop_writes(self.design)

    # shadow, shift

    async def sample(self, conn: Connection, wanted: int) -> ShadowResult | None:
        """Read groups as both versions do: by what their rows come to, and by the merged row."""
        return await merging_reads.sample(conn, self.design, wanted)

    async def tend(self, work: Work) -> Sequence[str]:
        """See that the merged rows are brought up to date, should somebody have ended what does it."""
        await begin(work.reference)
        return merge_rows_resolve.came(self.design, await catalogue.table(work.conn, self.schema_name, self.table))

    # contract

    async def check_way(self, conn: Connection) -> None:
        """Refuse what hangs on the source by now, and names that somebody has."""
        table = await catalogue.table(conn, self.schema_name, self.table)
        merge_rows_resolve.refuse_came(self.plan.name, self.design, table)
        merge_rows_resolve.refuse_held(table, await merging.source(conn, table, self.design.source_key))
        merge_rows_resolve.refuse_taken(self.design, await merging.taken(conn, self.design))

    async def contract(self, work: Work) -> None:
        """Write the last groups, move the source to the archive, and give the target its name, in one transaction."""
        await self._catch_up(work)
        design, plan = self.design, self.plan.name
        relations = {each.label: each for each in await catalogue.relations(work.conn, self.schema_name)}
        kept = archived_table(plan, self.schema_name, self.table, work.migration.attempt)
        source = DroppedTable(schema_name=self.schema_name, table=self.table, position=self.position)
        versions = await chain.versions_with(work.conn, self.plan, work.migration.id, self.schema_name, design.shown_as)
        statements = merge_rows.finish(
            design,
            [self._view(version) for version in versions],
            relations[self.label],
            plan,
            await archive_table(work.conn, source, kept),
        )
        marks: dict[str, object] = {f"contracted {self.label}": True}
        await locked(work, statements, CONTRACT, self.label, marks)

    @property
    def dropped(self) -> Sequence[str]:
        """Name the source, which is in the archive."""
        return [self.label]

    # Parts of these

    def _view(self, version: str) -> sql.Identifier:
        return sql.Identifier(version_schema(self.schema_name, version), self.design.shown_as)

    async def _catch_up(self, work: Work) -> None:
        """Drain by a session of its own: what is set for that must not hold for the step's own commit."""
        controls = await store.controls(work.conn, work.migration.id)
        pace = Pace.of(work.migration.policy).adjusted(controls)
        began = time.monotonic()
        async with work.beside() as conn:
            notes = await merging.catch_up(conn, self.design, pace)
        work.beat.note = f"{self.label}: {notes} notes taken in {time.monotonic() - began:.1f} s"

    async def _refuse_other_types(self, conn: Connection) -> None:
        """Compare with what preflight saw: that no measure can raise rests on it. From publication on the view holds the types."""
        known = {each.source: each.type for each in self.design.key}
        known |= {each.name: each.type for each in self.design.reads}
        await catalogue.require_types(conn, (self.schema_name, self.table), known, self.label)
