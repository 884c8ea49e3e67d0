"""A table that is attached to a parent above it, and becomes its first partition at contract (ADR 31).

There is one set of rows: nothing is mapped, filled or compared. The parent is made anew right before publication: whoever changed
the table meanwhile has changed what the parent must be like. What is found in the catalogue decides whether a step is done; what an
identity was is noted beside the migration, since publication replaces it.
"""

from collections.abc import Mapping, Sequence

from psycopg import errors, sql

from pgduet.activities.building import beside_clients, build_beside
from pgduet.activities.engine import Work
from pgduet.activities.shapes import steps
from pgduet.activities.shapes.shape import Shape
from pgduet.errors import NameTaken, NotSupported, OutOfBounds
from pgduet.measured import ShadowResult
from pgduet.operations import attach, attach_final, views
from pgduet.operations.attach import Carried
from pgduet.operations.attach import Sequence as Numbering
from pgduet.operations.attach_design import AttachDesign
from pgduet.operations.claims import Claimed
from pgduet.operations.column_design import BY_TEXT
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.statement import Lock, Statement, locking
from pgduet.operations.views import Relation
from pgduet.phases import SyncMode
from pgduet.postgres import attaching, catalogue, store
from pgduet.postgres.sampling import sample_tables
from pgduet.postgres.session import Connection


class Attach(Shape):
    """One of them, in each phase."""

    def __init__(self, plan: Design, design: AttachDesign) -> None:
        """Take the whole migration's design, and this part of it."""
        super().__init__(plan, design)
        self.design = design

    # expand

    async def expand(self, work: Work) -> None:
        """Make the parent: what it cannot have shows now."""
        if not await self._has_parent(work.conn):
            await self._make_parent(work)

    async def undo_expand(self, work: Work) -> None:
        """Drop the parent; the table is not under it any more."""
        if await self._has_parent(work.conn):
            await steps.locked(work, self._without_parent(), steps.UNDO_EXPAND, self.label)

    async def _has_parent(self, conn: Connection) -> bool:
        return await catalogue.relation_there(conn, self.schema_name, self.design.parent_name)

    async def _make_parent(self, work: Work) -> None:
        gone = self._without_parent() if await self._has_parent(work.conn) else []
        made = attach.create_parent(self.design, await attaching.carried(work.conn, self.design))
        await steps.locked(work, [*gone, *made], steps.EXPAND, self.label)

    def _without_parent(self) -> list[Statement]:
        return [locking(self.design.parent, Lock.ACCESS_EXCLUSIVE), attach.drop_parent(self.design)]

    # dual_write

    @property
    def _claimed(self) -> Claimed:
        """Say what is claimed: from the backfill to contract rows have two unique indexes, and each version upserts by its own."""
        design = self.design
        uniquely = tuple(dict.fromkeys((*design.named_by, *design.key)))
        return Claimed(self.plan.name, self.schema_name, self.table, design.named_by, uniquely, hashed=True)

    async def dual_write(self, work: Work) -> int:
        """Have whoever inserts a key claim it, before there is a second index that could refuse it."""
        claimed = self._claimed
        return await steps.locked(work, [*claimed.functions(), *claimed.triggers()], steps.DUAL_WRITE, self.label)

    async def undo_dual_write(self, work: Work) -> None:
        """Take the parent away, which moves no row; then drop the second index, then the triggers."""
        if await attaching.is_under(work.conn, self.design):
            statements = attach.withdraw(self.design, await self._numbering(work))
            await steps.locked(work, statements, steps.UNDO_DUAL_WRITE, self.label)
        await beside_clients(work, attach.drop_key(self.design))
        claimed = self._claimed
        await steps.locked(work, [*claimed.untriggers(), *claimed.drops()], steps.UNDO_DUAL_WRITE, self.label)

    # backfill

    async def filled(self, work: Work) -> None:
        """Build the index by which new clients name a row; then see that no row lies where none may at contract.

        Raises:
            OutOfBounds: some do.
        """
        design = self.design
        await build_beside(work, design, design.key_index, attach.build_key(design), attach.drop_key(design))
        await self._check_rows(work.conn)

    async def _check_rows(self, conn: Connection) -> None:
        found = await attaching.outside(conn, self.design, await attaching.condition(conn, self.design))
        if found:
            raise self._refused(attaching.shown(found))

    def _refused(self, which: str) -> OutOfBounds:
        design = self.design
        name = f"{design.schema_name}.{design.table}"
        return OutOfBounds(
            f"rows of {name} lie beyond the bound of its first partition, {design.first.name}: {which}",
            hint=f"Change them, or delete them, then: pgduet advance {self.plan.name}."
            " Or roll back, which moves no row, and start again with a later bound.",
        )

    # verify

    async def prepare_publication(self, work: Work) -> None:
        """Make the parent like the table is now, and put it above the table; nobody sees it yet.

        That is a transaction of its own: the one that publishes makes a view of every table, for which nobody should wait. What
        numbers the table is noted before, for the way back and for contract.

        Raises:
            NotSupported: the table cannot be under a parent any more.
        """
        if await attaching.is_under(work.conn, self.design):
            return
        await self._check_table(work.conn)
        await self._make_parent(work)
        carried = await attaching.carried(work.conn, self.design)
        noted = [each.model_dump(mode="json") for each in carried.numbering]
        await store.set_controls(work.conn, work.migration.id, {self._numbered: noted})
        made = [*attach.publish(self.design, carried), *self._claimed.saying(self.design.parent)]
        await steps.locked(work, made, steps.BOTH_WAYS, self.label)

    async def _check_table(self, conn: Connection) -> None:
        if reasons := await attaching.in_the_way(conn, self.design):
            raise NotSupported(
                f"{self.schema_name}.{self.table} {'; it '.join(reasons)}: a partition could not have that",
                hint=f"Undo it, then: pgduet advance {self.plan.name}. Or roll back, and start again: it is copied then.",
            )

    async def views(
        self, conn: Connection, relations: Mapping[str, Relation], version: str, shown: SyncMode | None = None
    ) -> Sequence[Statement]:
        """Show the parent; once contract has given it the table's name, that."""
        del shown
        relation = relations[self.label]
        base = self.design.parent if await self._has_parent(conn) else self.design.relation
        columns = tuple((name, name) for name in relation.columns)
        return views.view(views.Shape(relation, self.table, base, columns, shown=dict(columns)), version)

    async def probe_back(self, conn: Connection) -> str:
        """Tell that there is nothing to prove."""
        return "one set of rows" if await attaching.is_under(conn, self.design) else await super().probe_back(conn)

    @property
    def _numbered(self) -> str:
        return f"numbered {self.label}"

    async def _numbering(self, work: Work) -> tuple[Numbering, ...]:
        """Give what numbers the table: as it was before publication, with what has been changed of it since."""
        controls = await store.controls(work.conn, work.migration.id)
        noted = {one.column: one for one in map(Numbering.model_validate, controls.get(self._numbered, []))}
        found = []
        for each in await attaching.numbers_now(work.conn, self.design):
            before = noted.get(each.column)
            known = {"identity": before.identity, "grants": before.grants} if before else {}
            found.append(each.model_copy(update=known))
        return tuple(found)

    # shadow, shift

    async def sample(self, conn: Connection, wanted: int) -> ShadowResult:
        """Read rows by the table's own key through both versions: the same rows, one of them by way of the parent."""
        facts = await catalogue.table(conn, self.schema_name, self.table)
        columns = tuple(column.name for column in facts.columns)
        by_text = tuple(column.name for column in facts.columns if column.type in BY_TEXT)
        table = TableDesign(
            schema_name=self.schema_name,
            table=self.table,
            key=self.design.named_by,
            key_types=(),
            columns=columns,
            opaque=by_text,
            always_fire=False,
            mappings=(),
        )
        return await sample_tables(conn, self.plan.model_copy(update={"tables": (table,)}), wanted)

    # cutover

    async def release(self, work: Work) -> None:
        """Lift the bound, where contract had come as far as that."""
        await self.unsettle(work)

    # contract

    async def check_way(self, conn: Connection) -> None:
        """Refuse what has come to the table since, rows beyond the bound, and names that are taken.

        Raises:
            NotSupported: the table has something that a partition cannot have.
            NameTaken: something has a partition's name.
            OutOfBounds: rows lie beyond the bound.
        """
        await self._check_table(conn)
        if taken := await attaching.taken(conn, self.design):
            raise NameTaken(
                f"schema {self.schema_name} has a relation {taken[0]} by now, which is to be a partition of {self.table}",
                hint="Rename or drop it, then advance.",
            )
        if not await attaching.is_bound(conn, self.design):
            await self._check_rows(conn)

    async def settle(self, work: Work) -> None:
        """Hold the table to its bound: from here on it is sure that contract meets no row that it has no place for.

        Raises:
            OutOfBounds: rows lie beyond it; they may again.
        """
        design = self.design
        bound = await attaching.is_bound(work.conn, design)
        if bound is None:
            condition = await attaching.condition(work.conn, design)
            await steps.locked(work, [attach.bind(design, condition)], steps.DECLARE, self.label)
        if not bound:
            try:
                await beside_clients(work, attach.validate(design))
            except errors.CheckViolation:
                await self.unsettle(work)
                await self._check_rows(work.conn)
                raise self._refused("some that are gone again") from None

    async def unsettle(self, work: Work) -> None:
        """Lift the bound again."""
        if await attaching.is_bound(work.conn, self.design) is not None:
            await steps.locked(work, [attach.unbind(self.design)], steps.RELEASE, self.label)

    async def contract(self, work: Work) -> None:
        """Make the table the first partition, then the other partitions, a few at a time."""
        controls = await store.controls(work.conn, work.migration.id)
        noted = f"partitioned {self.label}"
        if noted in controls:
            carried = Carried.model_validate(controls[noted])
        else:
            now = await attaching.carried(work.conn, self.design)
            carried = now.model_copy(update={"numbering": await self._numbering(work)})
            marks = {noted: carried.model_dump(mode="json"), f"contracted {self.label}": True}
            claimed = self._claimed
            gone = [*claimed.unsaying(self.design.parent), *claimed.untriggers(), *claimed.drops()]
            made = [*gone, *attach_final.finish(self.design, carried)]
            await steps.locked(work, made, steps.CONTRACT, self.label, marks)
        for number, chunk in enumerate(attach_final.chunks(self.design)[1:], start=1):
            mark = f"{noted}/{number}"
            if mark not in controls:
                made = attach_final.further(self.design, carried, chunk)
                await steps.locked(work, made, steps.CONTRACT, self.label, {mark: True})

    @property
    def dropped(self) -> Sequence[str]:
        """Name the old key: from contract on it is not unique by itself."""
        key = sql.SQL(", ").join(sql.Identifier(name) for name in self.design.named_by).as_string(None)
        return [f"{self.label}: uniqueness of ({key})"]
