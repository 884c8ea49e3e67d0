"""What a migration decides, written down beside the data; and the two workflows that need no migration: setup and check."""

import logging

from psycopg.types.json import Jsonb
from temporalio import activity
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest

from pgduet.activities.engine import Engine, Work, beating, translated
from pgduet.activities.estimates import estimate
from pgduet.activities.preflight import in_chain, registered
from pgduet.activities.reconcile import sweep
from pgduet.audit import Entry, append
from pgduet.barriers import reach
from pgduet.messages import SEARCH_ATTRIBUTES, CheckInput, CheckResult, Note, Outcome, Record, SetupInput, SetupResult
from pgduet.plan.checksum import checksum
from pgduet.plan.load import parse_plan
from pgduet.postgres import conflicts, store
from pgduet.postgres.survey import survey
from pgduet.sql import load
from pgduet.telemetry import metrics, subject

_LOG = logging.getLogger("pgduet")


class Bookkeeping:
    """Writes decisions down."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="record")
    async def record(self, record: Record) -> Outcome:
        """Write phase, state and compensations, and the decision that led there, in one transaction."""
        async with self.engine.work(record.reference, "record") as work:
            async with work.conn.transaction():
                outcome = await _write_down(work, record)
                await reach("record.before_commit")
            await reach("record.after_commit")
            subject.in_phase(record.phase)
            metrics.stands(record.phase)
            _LOG.info("%s, %s%s", record.phase, record.state, f": {record.action}" if record.action else "")
            return outcome

    @activity.defn(name="note")
    async def note(self, note: Note) -> Outcome:
        """Write a person's act into the audit log."""
        async with self.engine.work(note.reference, "note") as work:
            async with work.conn.transaction():
                head = await store.audited(work.conn, note.reference, note.action, evidence=note.evidence)
                await reach("note.before_commit")
            await reach("note.after_commit")
            return Outcome(summary=f"{note.action} by {note.reference.actor}", audit_head=head)

    @activity.defn(name="setup")
    async def setup(self, request: SetupInput) -> SetupResult:
        """Create the metadata and register the search attributes; safe to run again."""
        if request.print_sql:
            statements = [load("grants")["grants"], load("metadata")["create_metadata"], load("audit")["create_audit"]]
            return SetupResult(database=request.database, sql="\n\n".join(statements))
        done = []
        async with self.engine.connection(request.database, "setup", bare=True) as conn, beating():
            if await store.set_up(conn):
                done.append("created the schemas pgduet, pgduet_views and pgduet_archive")
                async with conn.transaction():
                    await append(conn, Entry(actor=request.actor, action="setup"))
            swept = await sweep(activity.client(), conn, request.database)
        if swept:
            done.append("removed schedules without a migration: " + ", ".join(swept))
        if not await registered():
            await _register()
            done.append("registered the search attributes " + ", ".join(SEARCH_ATTRIBUTES))
        return SetupResult(database=request.database, done=done)

    @activity.defn(name="check")
    async def check(self, request: CheckInput) -> CheckResult:
        """Survey a plan; nothing is touched."""
        async with translated():
            plan = parse_plan(request.plan)
        async with self.engine.connection(plan.database, f"check/{plan.name}", bare=True) as conn, beating():
            if await store.is_set_up(conn):
                if found := await conflicts.same_name(conn, plan):
                    return CheckResult(checksum=checksum(plan), standing=_standing(found))
                surveyed = await in_chain(conn, plan)
            else:
                surveyed = await survey(conn, plan)
        return CheckResult(
            checksum=checksum(plan),
            hazards=[hazard.facts() for hazard in surveyed.hazards],
            estimate=estimate(plan, surveyed),
        )


def _standing(found: store.Migration) -> str:
    if found.ended:
        return "done"
    return "being rolled back" if found.going_back else f"live, in {found.phase}"


async def _write_down(work: Work, record: Record) -> Outcome:
    values = {
        "id": record.reference.migration_id,
        "phase": record.phase,
        "state": record.state,
        "compensations": Jsonb(record.compensations),
    }
    await store.run(work.conn, "record", values)
    if record.action is None:
        return Outcome(summary=f"recorded: {record.phase}")
    head = await store.audited(
        work.conn,
        record.reference,
        record.action,
        affected={"phase": record.phase, "state": record.state},
        evidence=record.model_dump(mode="json", include={"approvals", "left_at"}, exclude_none=True),
    )
    return Outcome(summary=f"{record.action}: {record.phase}", audit_head=head)


async def _register() -> None:
    client = activity.client()
    kinds = {
        "keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
        "int": IndexedValueType.INDEXED_VALUE_TYPE_INT,
    }
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace=client.namespace,
            search_attributes={name: kinds[kind] for name, kind in SEARCH_ATTRIBUTES.items()},
        )
    )
