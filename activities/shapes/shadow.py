"""A shadow: the rows of a table in another shape beside it, `shadow_table` and `extract_table` (ADR 28).

Its trigger on the anchor goes through four forms (`shadow_sync.Form`), each of which bears its neighbours: a transaction under way
may write in the one before. So a step that was killed is simply done again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from psycopg import errors

from pgduet.activities.building import beside_clients
from pgduet.activities.engine import Work
from pgduet.activities.ranges import bounds
from pgduet.activities.shapes import carrying, leaves, parity, steps
from pgduet.activities.shapes.shape import Progress, Range, Shape
from pgduet.activities.shapes.steps import locked, marked
from pgduet.errors import NotSupported
from pgduet.measured import Parity, ShadowResult
from pgduet.messages import Part
from pgduet.operations import (
    shadow,
    shadow_carry,
    shadow_columns,
    shadow_final,
    shadow_leaves,
    shadow_phases,
    shadow_reverse,
    shadow_rows,
    shadow_security,
    shadow_sync,
)
from pgduet.operations.design import Design
from pgduet.operations.names import version_schema
from pgduet.operations.shadow import VIEW_OWNER
from pgduet.operations.shadow_columns import Filled
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_final import HungConstraint
from pgduet.operations.shadow_refusals import alone_on
from pgduet.operations.shadow_sync import Form
from pgduet.operations.statement import Lock, Statement
from pgduet.operations.views import Relation
from pgduet.operations.views import Shape as Shown
from pgduet.operations.views import view as table_view
from pgduet.phases import SyncMode
from pgduet.postgres import catalogue, chain, copying, shadow_hanging, shadowing, store
from pgduet.postgres import shadow_columns as looked_at
from pgduet.postgres.brakes import Brakes
from pgduet.postgres.copying import Copying
from pgduet.postgres.filling import Filling
from pgduet.postgres.heaps import pages_of
from pgduet.postgres.pace import Pace
from pgduet.postgres.session import Connection
from pgduet.postgres.shadow_carrying import carried
from pgduet.postgres.shadow_columns import Seen

PARTITIONS_MEANWHILE, PAUSE_S = 5, 0.1
_PUBLISHED = {SyncMode.BOTH, SyncMode.ENFORCE}
_FORMS = {SyncMode.FILL: Form.MIRROR, SyncMode.BOTH: Form.BOTH, SyncMode.ENFORCE: Form.ENFORCE}


class Shadow(Shape):
    """A shadow, in each phase."""

    def __init__(self, plan: Design, design: ShadowDesign) -> None:
        """Take the whole migration's design, and this part of it."""
        super().__init__(plan, design)
        self.design = design
        self.made = f"shadow_{self.position}"
        """Marks that the tables are there, and are ours."""

    # expand

    async def expand(self, work: Work) -> None:
        """Create the shadow and its journal, and the role that owns the new version's view."""
        await shadowing.create_view_owner(work.conn)
        if not await marked(work, self.made):
            statements = [*shadow.create(self.design), *await carrying.created(work, self.design)]
            await locked(work, statements, steps.EXPAND, self.label, {self.made: True})

    async def undo_expand(self, work: Work) -> None:
        """Drop the shadow and its journal.

        Raises:
            ColumnsChanged: while it had the table's name, somebody has given it a column.
        """
        if await marked(work, self.made):
            there = await looked_at.stored(work.conn, self.design)
            shadow_columns.refuse_loss(self.plan.name, self.design, there)
            await locked(work, shadow.drop(self.design), steps.UNDO_EXPAND, self.label, {self.made: False})

    # dual_write

    async def dual_write(self, work: Work) -> int:
        """Have old clients' writes noted, and the types kept by which it was judged that none of them can fail."""
        of_leaves, known = await leaves.heard(work, self.design)
        statements = [*self._form(work, Form.NOTE), *shadow_sync.triggers(self.design, self.plan.name), *of_leaves]

        async def judged(conn: Connection) -> None:
            table = (self.schema_name, self.design.anchor_name)
            await catalogue.require_types(conn, table, shadow_sync.judged(self.design), self.label)

        return await locked(work, statements, steps.DUAL_WRITE, self.label, known, judged=judged)

    async def undo_dual_write(self, work: Work) -> None:
        """Drop the triggers on both tables, the policies, and all functions."""
        statements = [
            *shadow_sync.drop_triggers(self.design, self.plan.name),
            *await leaves.no_more(work.conn, self.plan.name, self.design),
            *shadow_reverse.drop_reverse(self.design, self.plan.name),
            *shadow_final.without_policies(self.design),
            *shadow_security.drop_functions(self.design),
            *shadow_sync.drop_functions(self.design),
            *self._leaf_functions_gone(),
        ]
        marks: dict[str, object] = {f"secured_{self.position}": None, **leaves.forgotten(self.design)}
        await locked(work, statements, steps.UNDO_DUAL_WRITE, self.label, marks)

    async def probe(self, conn: Connection) -> str:
        """Update a row, and see its key in the journal."""
        return await shadowing.probe(conn, self.design)

    # backfill

    async def ranges(self, conn: Connection, wide: int) -> list[Range]:
        """Cut the anchor's pages into ranges; of an empty partition nothing: its rows come by the trigger."""
        found = []
        for heap in await shadowing.heaps(conn, self.design):
            size = await pages_of(conn, heap)
            if size or heap == self.design.relation:
                label = heap.as_string(None)
                found += [Range(label, number, *pair) for number, pair in enumerate(bounds(size, wide))]
        return found

    async def filling(self, work: Work, part: Part) -> Filling | None:
        """Give what copies a range."""
        for heap in await shadowing.heaps(work.conn, self.design):
            if heap.as_string(None) == part.relation:
                return Copying(work.conn, work.migration.id, self.design, heap, part.part)
        return None

    async def unmapped(self, work: Work, limit: int) -> list[dict[str, object]]:
        """Name rows that the shadow cannot hold."""
        return await shadowing.unmapped(work.conn, self.design, work.migration.id, limit)

    async def filled(self, work: Work) -> None:
        """Give the shadow its key, have the trigger write it, and carry over what was noted meanwhile."""
        work.beat.note = f"{self.label}: the key of its new shape"
        before = shadow_carry.before_key(await carried(work.conn, self.design, self.plan.name))
        await copying.give_key(work.conn, self.design, self.plan.name, work.migration.id, before)
        await carrying.secured(work, self.design)
        await self._followed(work)
        await self._drain(work)

    async def weight(self, conn: Connection) -> int:
        """Count the shadow's pages."""
        return await pages_of(conn, self.design.shadow)

    # verify

    async def compare(self, work: Work, progress: Progress, brakes: Brakes, *, repair: bool) -> Parity | None:
        """Compare all rows of both versions, those of the table and those of its shadow."""
        await self._followed(work)
        return await parity.of_shadow(work, self.design, progress, brakes, repair=repair)

    async def prepare_publication(self, work: Work) -> None:
        """Have both sides write each other, carry over what the form before has noted, and build what new clients need.

        A client whose snapshot is older than that may note something more, so we wait for those, too, until nothing was noted.
        Unique indexes come after that: while changes are noted, the shadow may hold a value that was freed.
        """
        await copying.see_all(work.conn)
        await carrying.values_found(work, self.design)
        await carrying.older_snapshots_gone(work, self.design)
        await shadowing.until_writers_left(work.conn, self.design, self._waits(work))  # or the build waits for them
        await carrying.notes_found(work, self.design)
        await locked(work, self._form(work, Form.BOTH), steps.BOTH_WAYS, self.label)
        await shadowing.until_writers_left(work.conn, self.design, self._waits(work))
        await self._followed(work)
        await carrying.older_snapshots_gone(work, self.design)
        while await shadowing.owes(work.conn, self.design):
            await self._drain(work)
            await carrying.older_snapshots_gone(work, self.design)
        unique = await carrying.ready_for_clients(work, self.design)
        await carrying.secured(work, self.design)
        reverse = [*shadow_reverse.reverse(self.design, self.plan.name, unique), *shadow_phases.back(self.design)]
        await locked(work, reverse, steps.BOTH_WAYS, self.label)

    async def views(self, conn: Connection, relations: Mapping[str, Relation], version: str) -> Sequence[Statement]:
        """Show the shadow by a view that runs with its owner's rights; of an extraction the table without what has moved, too."""
        relation = relations[self.label]
        name = shadow_phases.view(self.design, version)
        made: list[Statement] = []
        if self.design.kind == "extract_table":
            made += table_view(self._what_stays(relation), version)
        owner = await shadowing.view_owner(conn)
        may, no_more = shadow.may_own(owner, version_schema(self.schema_name, version))
        *shown, owned = shadow.view(self.design, name, relation, owner)
        rights = shadow_carry.view_rights(carrying.view_rights(self.design, relation), name)
        return [*made, *may, *shown, *rights, owned, *no_more]

    def _what_stays(self, relation: Relation) -> Shown:
        """Show the anchor of an extraction without the columns that have moved."""
        keys = {column.anchor for column in self.design.key}
        moved = {column.name for column in self.design.downs} - keys
        columns = tuple((each, each) for each in relation.columns if each not in moved)
        return Shown(relation, relation.table, relation.relation, columns, shown=dict(columns))

    async def probe_back(self, conn: Connection) -> str:
        """Write a row of the shadow, and see it in the anchor."""
        return await shadowing.probe_back(conn, self.design)

    async def restore(self, work: Work) -> int:
        """Bring back what an earlier attempt archived."""
        return await shadowing.restore(work.conn, self.plan, self.design)

    async def archive_new(self, conn: Connection, attempt: int) -> int:
        """Save what the shadow holds and the anchor cannot give."""
        return await shadowing.archive(conn, shadow_phases.archive_new(self.plan, self.design, attempt))

    # shadow, cutover

    async def sample(self, conn: Connection, wanted: int) -> ShadowResult | None:
        """Read rows through both versions."""
        return await shadowing.sample(conn, self.plan, self.design, wanted)

    async def tend(self, work: Work) -> Sequence[str]:
        """Follow policies that somebody has changed, partitions that came or went, and columns that may be empty by now."""
        await carrying.secured(work, self.design)
        if work.migration.sync_mode not in _PUBLISHED:
            return ()
        await self._followed(work)
        seen = await looked_at.seen(work.conn, self.design)
        if seen.loosened:
            await locked(work, seen.loosened, steps.SECURE, self.label)
        return [f"{self.label}: {said}" for said, _ in shadow_columns.in_the_way(self.design, seen.columns)]

    async def declare(self, work: Work) -> int:
        """Build what is unique among the new shape's values."""
        await carrying.binding(work, self.design)
        return 0

    async def release(self, work: Work) -> None:
        """Drop it again."""
        await carrying.released(work, self.design)

    def functions(self, work: Work, mode: SyncMode) -> Sequence[Statement]:
        """Give the trigger on the anchor the form of a mode."""
        return self._form(work, _FORMS[mode])

    # contract

    async def check_way(self, conn: Connection) -> None:
        """Refuse what would keep the anchor from going."""
        facts = await catalogue.table(conn, self.schema_name, self.design.anchor_name)
        moved = {column.name for column in self.design.downs} - {column.anchor for column in self.design.key}
        columns = facts.columns if self.design.kind == "shadow_table" else [c for c in facts.columns if c.name in moved]
        if held := sorted({*alone_on(columns), *(what for column in columns for what in column.hanging("view"))}):
            raise NotSupported(
                f"{self.schema_name}.{self.table} cannot get its new shape: on it depend {'; '.join(held)}",
                hint="Drop what depends on it, then advance.",
            )

        await carrying.check_way(conn, self.plan.name, self.design)
        shadow_columns.refuse(self.plan.name, self.design, facts.columns, way_back=True)

    async def settle(self, work: Work) -> None:
        """Build what somebody has given the table since it was published, and follow its partitions."""
        await carrying.settled(work, self.design)
        await self._followed(work)

    async def archive_old(self, conn: Connection, attempt: int) -> int:
        """Save what the anchor holds and `down` does not give back."""
        return await shadowing.archive(conn, shadow_phases.archive_old(self.plan, self.design, attempt))

    async def contract(self, work: Work) -> None:
        """Put the shadow in the anchor's place; then see, beside clients, that every row keeps its constraints."""
        for _ in range(PARTITIONS_MEANWHILE):
            try:
                return await self._contracted(work)
            except errors.ObjectNotInPrerequisiteState:  # keys were noted, partitions or columns changed since the look
                await asyncio.sleep(PAUSE_S)
        return await self._contracted(work)

    async def _contracted(self, work: Work) -> None:
        to_validate = f"validate_{self.position}"
        if not await steps.is_contracted(work, self.label):
            known = await self._followed(work)
            seen = await self._seen(work)
            design, now = self.design, seen.design
            hung = await shadow_hanging.translated(work.conn, design, await copying.hung(work.conn, design))
            added = shadow_columns.checks(design, seen.filled)
            hung = hung.model_copy(update={"outbound": (*hung.outbound, *added)})
            relations = {each.label: each for each in await catalogue.relations(work.conn, self.schema_name)}
            versions = await chain.versions_with(
                work.conn, self.plan, work.migration.id, self.schema_name, self.design.shown_as
            )
            shown = [shadow_phases.view(self.design, version) for version in versions]
            owner = await shadowing.view_owner(work.conn)
            apart = owner if owner == VIEW_OWNER else None
            statements = [shadow_rows.owes_nothing(design), *await self._unheard(work, known)]
            statements.append(shadow_columns.as_seen(design, seen.mark))
            statements += seen.loosened
            statements += shadow_final.finish(now, self.plan.name, hung, relations[self.label], shown, apart)
            statements += [*await carrying.finished(work, now), shadow.drop_journal(design)]
            later = [each.model_dump(mode="json") for each in shadow_final.to_validate(design, hung)]
            filled = [each.model_dump(mode="json") for each in seen.filled]
            marks: dict[str, object] = {f"contracted {self.label}": True, to_validate: later, self._filled: filled}
            await locked(work, statements, steps.CONTRACT, self.label, marks)
        for each in (await store.controls(work.conn, work.migration.id)).get(to_validate, []):
            await beside_clients(work, shadow_final.validation(HungConstraint.model_validate(each)))
        await self._required(work)

    async def _seen(self, work: Work) -> Seen:
        """Look at the anchor's columns once more: somebody may have changed them since the point of no return.

        Raises:
            ColumnsChanged: contract would lose that.
        """
        seen = await looked_at.seen(work.conn, self.design)
        shadow_columns.refuse(self.plan.name, self.design, seen.columns, way_back=False)
        return seen

    async def _required(self, work: Work) -> None:
        """Let columns be NOT NULL that came to be so meanwhile; a check, validated beside clients, spares the scan."""
        filled = (await store.controls(work.conn, work.migration.id)).get(self._filled, [])
        while filled:
            each, *filled = (Filled.model_validate(one) for one in filled)
            (check,) = shadow_columns.checks(self.design, [each])
            await beside_clients(work, shadow_final.validation(check))
            left: dict[str, object] = {self._filled: [one.model_dump(mode="json") for one in filled]}
            await locked(work, shadow_columns.require(self.design, each), steps.CONTRACT, self.label, left)

    @property
    def _filled(self) -> str:
        return f"filled_{self.position}"

    @property
    def dropped(self) -> Sequence[str]:
        """Name the anchor, or the columns that have moved."""
        if self.design.kind == "shadow_table":
            return [f"{self.label}, as it was"]
        keys = {column.anchor for column in self.design.key}
        return [f"{self.label}.{column.name}" for column in self.design.downs if column.name not in keys]

    # What they are made of

    async def _unheard(self, work: Work, known: frozenset[str]) -> list[Statement]:
        """See that the partitions are those that are known, and take their triggers away: the whole table's lock is theirs, too."""
        if not self.design.parted:
            return []
        dropped = await leaves.no_more(work.conn, self.plan.name, self.design)
        unlocked = [replace(each, lock=Lock.NONE, relation=None) for each in dropped]
        as_known = shadow_leaves.as_known(self.design, self.plan.name, known)
        return [as_known, *unlocked, *self._leaf_functions_gone()]

    def _form(self, work: Work, form: Form) -> list[Statement]:
        of_leaves = shadow_leaves.functions(self.design, form) if self.design.parted else []
        return [*shadow_sync.functions(self.design, self.plan.name, work.migration.id, form), *of_leaves]

    def _leaf_functions_gone(self) -> list[Statement]:
        return shadow_leaves.drop_functions(self.design) if self.design.parted else []

    async def _followed(self, work: Work) -> frozenset[str]:
        """Follow partitions, and carry over what else was noted: from publication on by clients with old snapshots only."""
        known = await leaves.followed(work, self.design, lambda: self._drain(work))
        if await shadowing.owes(work.conn, self.design):
            await self._drain(work)
        return known

    async def _drain(self, work: Work) -> None:
        pace = Pace.of(work.migration.policy).adjusted(await store.controls(work.conn, work.migration.id))
        await shadowing.drain(work.conn, self.design, pace, self._waits(work))

    def _waits(self, work: Work) -> shadowing.Waits:
        """Say in the heartbeat for whom we wait."""
        since = None

        def waits(who: str) -> None:
            nonlocal since
            if who:
                since = steps.waiting(work, who, since)
            else:
                since = work.beat.progress = None

        return waits
