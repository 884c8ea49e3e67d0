"""expand: adds new columns, empty and unbound, creates new tables, runs the plan's SQL, builds indexes; undo takes all of it away.

The first migration of a chain also creates the version schema of the version it starts from. An undo leaves that schema:
it shows the tables as they are, and clients may have come to use it. A created table that has rows goes to the archive, and
comes back from there.
"""

import psycopg
from temporalio import activity

from pgduet.activities.building import build_first, drop_first
from pgduet.activities.engine import Engine, Work
from pgduet.activities.shapes import shapes_of
from pgduet.activities.versions import open_old_version, unpublished_before
from pgduet.barriers import reach
from pgduet.messages import Outcome, Reference
from pgduet.operations import columns, scripts, tables
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.names import archived_table
from pgduet.operations.statement import Statement
from pgduet.operations.whole_tables import CreatedTable, Script
from pgduet.postgres import store
from pgduet.postgres.commonest import commonest_values
from pgduet.postgres.moving import archive_table, archived, bring_back, count_rows, own_search_path, set_table_aside
from pgduet.postgres.session import Connection


class Expand:
    """Adds columns and tables, and takes them away again."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="expand")
    async def expand(self, reference: Reference) -> Outcome:
        """Add new columns, then new tables, other shapes, the plan's SQL, indexes; each in a transaction of its own."""
        async with self.engine.work(reference, "expand", alone=True) as work:
            design = work.migration.design
            if not await unpublished_before(work):
                await open_old_version(work)
            step = _Step(work, "expand")
            for table in design.synced:
                await _add_columns(step, table)
            for made in design.created:
                if not await step.has_run(made.position):
                    await step.run(await _statements_for(work, made), made.label, (made.position, True))
            for shape in shapes_of(design):
                await shape.expand(work)
            for script in design.scripts:
                if script.at == "expand" and not await step.has_run(script.position):
                    await step.run_script(script, script.up, ran=True)
            built = await build_first(work)
            more = f", built {', '.join(built)}" if built else ""
            return step.outcome(f"added {_what(design)}{more}")

    @activity.defn(name="undo_expand")
    async def undo_expand(self, reference: Reference) -> Outcome:
        """Drop indexes, undo the plan's SQL, drop other shapes, archive or drop new tables, drop new columns."""
        async with self.engine.work(reference, "undo_expand", alone=True) as work:
            design = work.migration.design
            step = _Step(work, "undo_expand")
            await drop_first(work)
            for script in reversed(design.scripts):
                if script.down is not None and await step.has_run(script.position):
                    await step.run_script(script, script.down, ran=False)
            for shape in reversed(shapes_of(design)):
                await shape.undo_expand(work)
            kept = 0
            for made in reversed(design.created):
                if await step.has_run(made.position):
                    count = await count_rows(work.conn, made.label)
                    name = archived_table(design.name, made.schema_name, made.table)
                    statements = await archive_table(work.conn, made, name) if count else tables.drop(made)
                    await step.run(statements, made.label, (made.position, False), archived=count)
                    kept += count
            for table in reversed(design.synced):
                await step.run(columns.drop(table), table.label)
            outcome = step.outcome(f"dropped {_what(design)}")
            return outcome.model_copy(update={"evidence": {**outcome.evidence, "archived": kept}})


def _what(design: Design) -> str:
    """Count what a plan adds, for people."""
    counts = {
        "new columns": sum(len(table.new_columns) for table in design.synced),
        "new tables": len(design.created),
        "other shapes": len(shapes_of(design)),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing of its own"


class _Step:
    """Runs statements under the lock budget, with an entry in the audit log in the same transaction."""

    def __init__(self, work: Work, name: str) -> None:
        self.work = work
        self.name = name
        self.tries = 0
        self.head: str | None = None

    async def run(
        self, statements: list[Statement], label: str, mark: tuple[int, bool] | None = None, **affected: object
    ) -> None:
        """Run statements on a table; `mark` remembers that an operation has been done, or undone."""

        async def also(conn: Connection) -> None:
            told = {"table": label, **affected}
            if mark:
                await self.remember(conn, *mark)
            self.head = await store.audited(conn, self.work.reference, self.name, affected=told)
            await reach(f"{self.name}.before_commit")

        self.tries += await self.work.locked(statements, also)
        await reach(f"{self.name}.after_commit")

    async def run_script(self, script: Script, text: str, *, ran: bool) -> None:
        """Run a text of the plan."""
        statement = scripts.run(script, text, search_path=await own_search_path(self.work.conn))
        await self.run([statement], f"sql, operation {script.position}", (script.position, ran))

    async def remember(self, conn: Connection, position: int, done: bool) -> None:  # noqa: FBT001
        """Note that an operation has been done: by this, and by nothing else, are tables and scripts known as ours."""
        await store.set_controls(conn, self.work.migration.id, {f"made_{position}": done})

    async def has_run(self, position: int) -> bool:
        """Tell whether an operation has been done."""
        controls = await store.controls(self.work.conn, self.work.migration.id)
        return bool(controls.get(f"made_{position}"))

    def outcome(self, summary: str) -> Outcome:
        return Outcome(summary=summary, evidence={"lock_tries": self.tries}, audit_head=self.head)


async def _add_columns(step: _Step, table: TableDesign) -> None:
    """Add a table's columns; rows that exist begin with what `up` gives most often, as far as the type takes it."""
    common = await commonest_values(step.work.conn, table)
    affected: dict[str, object] = {"columns": [column.name for column in table.new_columns]}
    shares = {c.name: round(common[c.physical].share, 3) for c in table.derived if c.physical in common}
    try:
        begins_as = {physical: one.value for physical, one in common.items()}
        await step.run(columns.add(table, begins_as), table.label, None, **affected, begun=shares)
    except psycopg.DataError:  # longer than the type allows
        await step.run(columns.add(table), table.label, None, **affected)


async def _statements_for(work: Work, table: CreatedTable) -> list[Statement]:
    """Bring an archived table back where its form is still the plan's; else set it aside, and make a new one."""
    plan = work.migration.design.name
    name = archived_table(plan, table.schema_name, table.table)
    same = await archived(work.conn, table, name)
    if same:
        return await bring_back(work.conn, table, name)
    if same is None:
        return tables.create(table)
    aside = archived_table(plan, table.schema_name, table.table, work.migration.attempt)
    return [*await set_table_aside(work.conn, table, name, aside), *tables.create(table)]
