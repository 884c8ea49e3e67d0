"""Reads what a report rests on: the rows of a migration, its audit entries, its archive, and its tables as they are now.

One read-only snapshot, so that all facts are of one moment. Statistics of tables are PostgreSQL's own and may lag.
"""

from typing import Any

from psycopg import sql

from pgduet.operations import shadow_sync
from pgduet.operations.design import Design
from pgduet.operations.names import archived_table, trigger_name
from pgduet.phases import State
from pgduet.postgres import catalogue, store
from pgduet.postgres.session import Connection
from pgduet.report import attempts
from pgduet.report.facts import Attempt, Drift, Kept, KeptTable, ReportFacts, SeenClient, TableNow
from pgduet.sql import block

MOST_ATTEMPTS = 20
MOST_CLIENTS = 100


async def read(conn: Connection, database: str, name: str) -> ReportFacts:
    """Read all that a database knows about the migrations of one name; nothing where it is not set up."""
    async with conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        now = (await _rows(conn, "now"))[0]
        facts = ReportFacts(name=name, database=database, read_at=now["at"], postgres=now["version"])
        if not (await store.run(conn, "is_set_up"))[0]["ready"]:
            return facts
        rows = await _rows(conn, "attempts", name=name, most=MOST_ATTEMPTS)
        if not rows:
            return facts
        facts.attempts_total = rows[0]["total"]
        facts.attempts = await _attempts(conn, name, rows)
        facts.kept = [Kept(**row) for row in await _rows(conn, "kept", name=name)]
        facts.clients = [SeenClient(**row) for row in await _rows(conn, "clients", name=name, most=MOST_CLIENTS)]
        facts.builds_on_it = [row["name"] for row in await _rows(conn, "builds_on_it", id=rows[0]["id"])]
        for row in rows:
            known = {each.name for each in facts.kept_tables}
            kept = await _kept_tables(conn, row["attempt"], Design.model_validate(row["design"]))
            facts.kept_tables += [table for table in kept if table.name not in known]
        design = Design.model_validate(rows[0]["design"])
        facts.schemas = await _schemas(conn, design)
        facts.tables = await _tables(conn, design, done=rows[0]["state"] == State.DONE)
        head = (await (await conn.execute(block("audit", "head"))).fetchall())[0]
        facts.audit_entries, facts.audit_head = head["seq"], f"{head['seq']}:{head['hash']}"
        return attempts.fitted(facts)


async def _attempts(conn: Connection, name: str, rows: list[dict[str, Any]]) -> list[Attempt]:
    ids = [row["id"] for row in rows]
    entries = attempts.by_attempt(await _rows(conn, "entries", name=name))
    filled = {row["migration_id"]: row for row in await _rows(conn, "filled", ids=ids)}
    drift = await _rows(conn, "drift", ids=ids)
    found = []
    for row in reversed(rows):
        seen = [
            Drift(**{key: each[key] for key in Drift.model_fields})
            for each in drift
            if each["migration_id"] == row["id"]
        ]
        found.append(attempts.attempt(row, entries.get(row["attempt"], []), filled.get(row["id"]), seen))
    return found


async def _kept_tables(conn: Connection, attempt: int, design: Design) -> list[KeptTable]:
    """Find the whole tables that a rollback or contract has moved to the archive."""
    names = {archived_table(design.name, made.schema_name, made.table): made.label for made in design.created}
    names |= {archived_table(design.name, t.schema_name, t.table, attempt): t.label for t in design.dropped}
    found = []
    for name, label in names.items():
        sizes = await _rows(conn, "kept_table", table=name)
        found += [KeptTable(attempt=attempt, name=name, of=label, bytes=row["bytes"]) for row in sizes]
    return found


async def _schemas(conn: Connection, design: Design) -> list[str]:
    wanted = (*design.version_schemas(design.from_version), *design.version_schemas(design.to_version))
    return [name for name in wanted if await catalogue.is_ours(conn, name)]


async def _tables(conn: Connection, design: Design, *, done: bool) -> list[TableNow]:
    """Look at each table under the name that it has now."""
    brought = {table.label: [column.name for column in table.new_columns] for table in design.tables}
    ours = {table.label: [column.physical for column in table.new_columns] for table in design.tables}
    for table in design.tables:
        if table.new_name and done:
            label = sql.Identifier(table.schema_name, table.new_name).as_string(None)
            brought[label], ours[label] = brought.pop(table.label), ours.pop(table.label)
    labels = [*brought, *(made.label for made in design.created), *(gone.label for gone in design.dropped)]
    labels += [shape.label for shape in design.whole]
    triggers = [trigger_name(design.name, kind) for kind in ("insert", "update")]
    triggers += shadow_sync.trigger_names(design.name)
    found = []
    for label in labels:
        columns = brought.get(label, []) if done else []
        asked = {"label": label, "columns": columns, "ours": ours.get(label, []), "triggers": triggers}
        found += [TableNow(label=label, **row) for row in await _rows(conn, "table_now", **asked)]
    return found


async def _rows(conn: Connection, what: str, **parameters: object) -> list[dict[str, Any]]:
    """Run a block of report.sql."""
    return await (await conn.execute(block("report", what), parameters)).fetchall()
