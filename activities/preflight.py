"""preflight: the plan against the live catalogue, conflicts with other migrations, and the row that everything rests on.

Nothing of the user's is touched, so there is nothing to undo; a refusal ends the workflow at once with its reason.
"""

from dataclasses import replace

from psycopg.types.json import Jsonb
from temporalio import activity
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

from pgduet.activities.engine import Engine, beating, translated
from pgduet.activities.estimates import estimate
from pgduet.barriers import reach
from pgduet.errors import ActRefused, NameTaken, Place, UnknownMigration
from pgduet.messages import SEARCH_ATTRIBUTES, Opened, OpenRequest, Reference
from pgduet.phases import Phase
from pgduet.plan.checksum import checksum
from pgduet.plan.load import parse_plan
from pgduet.plan.models import Plan
from pgduet.postgres import catalogue, chain, conflicts, store
from pgduet.postgres.conflicts import Reach
from pgduet.postgres.session import Connection
from pgduet.postgres.survey import Survey, survey


class Preflight:
    """Opens migrations."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="preflight")
    async def preflight(self, request: OpenRequest) -> Opened:
        """Check the plan and open the migration, or find it open (after a lost workflow) or done."""
        async with translated():
            plan = parse_plan(request.plan)
        async with self.engine.connection(plan.database, f"preflight/{plan.name}", bare=True) as conn, beating():
            await store.set_up(conn)
            if found := await conflicts.same_name(conn, plan):
                return await _opened(conn, found)
            surveyed = await in_chain(conn, plan)
            await _refuse_foreign_schemas(conn, surveyed)
            return await _open(conn, request, plan, surveyed)

    @activity.defn(name="find")
    async def find(self, reference: Reference) -> Opened:
        """Find a migration whose workflow was lost, to undo it."""
        async with self.engine.connection(reference.database, f"find/{reference.name}") as conn, beating():
            found = await store.latest(conn, reference.name)
            if found is None:
                raise UnknownMigration(f"{reference.database} has no migration {reference.name}")
            if found.no_return:
                raise ActRefused(
                    f"contract of {reference.name} {'is done' if found.ended else 'has begun'}: there is no way back",
                    hint=None if found.ended else "Start the same plan again: it finishes the contract.",
                )
            return await _opened(conn, found)


async def registered() -> bool:
    """Find out whether the search attributes are there: to set one that is not would wedge the workflow."""
    client = activity.client()
    answer = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return set(SEARCH_ATTRIBUTES) <= set(answer.custom_attributes)


async def _opened(conn: Connection, found: store.Migration) -> Opened:
    route = await store.run(conn, "route", {"migration": found.name})
    return Opened(
        migration_id=found.id,
        attempt=found.attempt,
        checksum=found.checksum,
        phase=found.phase,
        search_attributes=await registered(),
        compensations=found.compensations,
        rolling_back=found.going_back is not None and not found.ended,
        going_back=None if found.ended else found.going_back,
        plan=found.plan.model_dump(mode="json", by_alias=True),
        no_return=found.no_return,
        paused=found.paused and found.going_back is None and not (found.no_return or found.ended),
        authority=found.authority,
        read_percent=route[0]["read_percent"] if route else 0,
    )


async def in_chain(conn: Connection, plan: Plan) -> Survey:
    """Survey a plan that continues the chain, and have it show every schema that the version before it shows."""
    await conflicts.check(conn, plan, Reach.of(plan))
    surveyed = await survey(conn, plan)
    await conflicts.check(conn, plan, Reach.of(surveyed.design))
    shown = [*await catalogue.schemas_of_version(conn, plan.version.from_)]
    for other in await chain.live(conn):
        shown += other.design.schemas
    also = tuple(name for name in dict.fromkeys(shown) if name not in surveyed.design.schemas)
    return replace(surveyed, design=surveyed.design.model_copy(update={"also_schemas": also}))


async def _refuse_foreign_schemas(conn: Connection, surveyed: Survey) -> None:
    design = surveyed.design
    for name in (*design.version_schemas(design.from_version), *design.version_schemas(design.to_version)):
        if await catalogue.is_ours(conn, name) is False:
            raise NameTaken(
                f'a schema "{name}" is there already, and it is not pgduet\'s',
                place=Place("version"),
                hint="Choose other names for the versions, or rename that schema.",
            )


async def _open(conn: Connection, request: OpenRequest, plan: Plan, surveyed: Survey) -> Opened:
    attributes = await registered()
    hazards = [f"{hazard.id}  {hazard.condition}: {hazard.where}" for hazard in surveyed.hazards]
    expected = estimate(plan, surveyed)
    async with conn.transaction():
        # Two plans at once: the one that comes second finds the first.
        await chain.hold(conn)
        if found := await conflicts.same_name(conn, plan):
            return await _opened(conn, found)
        await conflicts.check(conn, plan, Reach.of(surveyed.design))
        before = await store.latest(conn, plan.name)
        attempt = before.attempt + 1 if before else 1
        rows = await store.run(
            conn,
            "insert",
            {
                "name": plan.name,
                "database": plan.database,
                "attempt": attempt,
                "checksum": checksum(plan),
                "from_version": plan.version.from_,
                "to_version": plan.version.to,
                "plan": Jsonb(plan.model_dump(mode="json", by_alias=True)),
                "design": Jsonb(surveyed.design.model_dump(mode="json")),
                "workflow_id": request.workflow_id,
            },
        )
        reference = Reference(
            database=plan.database,
            name=plan.name,
            migration_id=rows[0]["id"],
            actor=request.actor,
            reason=request.reason,
        )
        head = await store.audited(
            conn,
            reference,
            "start",
            affected={"tables": sorted(surveyed.design.touched), "checksum": checksum(plan)},
            # Kept, so that the report can set it beside what was measured.
            evidence={"attempt": attempt, "hazards": hazards, "estimate": expected},
        )
        await reach("open.before_commit")
    await reach("open.after_commit")
    return Opened(
        migration_id=reference.migration_id,
        attempt=attempt,
        checksum=checksum(plan),
        phase=Phase.PREFLIGHT,
        search_attributes=attributes,
        rows_estimate=int(sum(facts.rows for facts in surveyed.facts.values())),
        hazards=hazards,
        audit_head=head,
    )
