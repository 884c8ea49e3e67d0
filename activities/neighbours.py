"""Decisions that concern other migrations of the version chain: to roll back, to contract, to publish.

Each is taken under the chain's lock, in the transaction that writes it down: so no later migration can start upon one that is going
back, and no contract can begin behind the back of a rollback that must still be possible.
"""

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from pgduet.activities.engine import Engine
from pgduet.activities.shapes import shapes_of
from pgduet.barriers import reach
from pgduet.errors import ActRefused, BuiltUpon
from pgduet.messages import Abort, Outcome, Reference, Start
from pgduet.neighbours import Claim, Neighbour, Pending
from pgduet.operations import column_changes, refusals
from pgduet.operations.design import Design
from pgduet.postgres import catalogue, chain, store
from pgduet.postgres.constraints import refuse_standing_on
from pgduet.postgres.dependents import dependents_of
from pgduet.postgres.indexing import check_identity, check_identity_index, check_still_droppable
from pgduet.postgres.new_names import check_still_free
from pgduet.postgres.session import Connection

REASON_LENGTH = 2000


class Neighbours:
    """Looks at the chain before a step that others feel."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="claim_rollback")
    async def claim_rollback(self, claim: Claim) -> Outcome:
        """Decide that this migration goes back; from then on nothing can start upon it.

        Raises:
            ActRefused: contract has begun, here or in a later migration.
            BuiltUpon: a later migration is live, and is not to be rolled back with this one.
        """
        async with self.engine.work(claim.reference, "claim") as work, work.conn.transaction():
            await chain.hold(work.conn)
            found = await store.migration(work.conn, claim.reference)
            if found.no_return:
                raise ActRefused("contract has begun: the old representation is being dropped, there is no way back")
            if found.ended:
                raise ActRefused(f"it has ended ({found.state})")
            abort = _merged(claim.abort, found.going_back)
            later = await _later(work.conn, found, cascade=abort.cascade)
            if abort == found.going_back:
                return Outcome(summary="rolling back already")
            await store.set_controls(work.conn, found.id, {"going_back": abort.model_dump(mode="json")})
            evidence: dict[str, object] = {"force": abort.force, "later": [other.name for other in later]}
            affected: dict[str, object] = {"phase": found.phase}
            head = await store.audited(work.conn, claim.reference, "abort", affected=affected, evidence=evidence)
            await reach("claim.before_commit")
        await reach("claim.after_commit")
        return Outcome(summary="rolling back", evidence=evidence, audit_head=head)

    @activity.defn(name="press_later")
    async def press_later(self, claim: Claim) -> Pending:
        """Have every later migration rolled back by its own workflow; tells which are still there, the newest first.

        Safe to run again: one that goes back already is left alone, and one whose workflow was lost is adopted.
        """
        async with self.engine.work(claim.reference, "cascade") as work:
            later = await chain.after(work.conn, claim.reference.migration_id)
        client = activity.client()
        for other in later:
            if not (other.going_back and await _runs(client, other.workflow_id)):
                await _send_back(client, other, claim)
        return Pending(waits_for=[other.standing() for other in later])

    @activity.defn(name="earlier_unpublished")
    async def earlier_unpublished(self, reference: Reference) -> Pending:
        """Tell which earlier migrations have yet to publish the versions upon which this one's would stand."""
        async with self.engine.work(reference, "neighbours") as work:
            earlier = await chain.before(work.conn, reference.migration_id)
            return Pending(waits_for=[other.standing() for other in earlier if not other.published])

    @activity.defn(name="begin_contract")
    async def begin_contract(self, reference: Reference) -> Pending:
        """Pass the point of no return, unless an earlier migration must still be able to go back, or this one is about to.

        Raises:
            NotSupported: something depends on a column that goes, or cannot be made anew, a foreign key stands on a constraint
                that goes, an index to be dropped is needed, or a publication would have clients' writes fail; nothing is
                decided.
            NameTaken: somebody has a name that the new version gives at contract; nothing is decided.
            OutOfBounds: rows would have no place in the new shape; nothing is decided.
            ColumnsChanged: somebody has changed a column since preflight, and it would be lost; nothing is decided.
        """
        async with self.engine.work(reference, "contract", alone=True) as work:
            shapes = shapes_of(work.migration.design)
            if not work.migration.no_return:
                await _check_way(work.conn, work.migration.design)
                if shapes and not await _unsure(work.conn, work.migration):
                    for shape in shapes:
                        await shape.settle(work)
            async with work.conn.transaction():
                pending = await _begin_contract(work.conn, reference)
                await reach("begin_contract.before_commit")
            await reach("begin_contract.after_commit")
            if pending.waits_for:
                for shape in reversed(shapes):
                    await shape.unsettle(work)
            return pending


async def _check_way(conn: Connection, design: Design) -> None:
    """Refuse, while there is a way back, what the user has made since preflight and contract could not get past."""
    for table in design.tables:
        facts = await catalogue.table(conn, table.schema_name, table.table)
        refusals.refuse_held(table, facts)
        column_changes.refuse(design.name, table, facts)
        await dependents_of(conn, table)
        await refuse_standing_on(conn, table, table.dropped_constraints)
        await check_still_free(conn, design, table)
        if table.identity:
            await check_identity(conn, table, table.identity)
            await check_identity_index(conn, table, table.identity)
    for shape in shapes_of(design):
        await shape.check_way(conn)
    for index in design.dropped_indexes:
        await check_still_droppable(conn, index)


async def _begin_contract(conn: Connection, reference: Reference) -> Pending:
    await chain.hold(conn)
    found = await store.migration(conn, reference)
    unsure = await _unsure(conn, found)
    if not unsure:
        await store.set_controls(conn, found.id, {"no_return": True})
    return Pending(waits_for=unsure)


async def _unsure(conn: Connection, found: store.Migration) -> list[Neighbour]:
    """Tell what may still have to go back, which a contract would make impossible: itself, or an earlier migration."""
    if found.going_back:
        return [Neighbour(name=found.name, phase=found.phase, detail="its own rollback")]
    earlier = await chain.before(conn, found.id)
    return [
        other.standing("" if other.going_back else f"in {other.phase}, to be through cutover")
        for other in earlier
        if other.going_back or not other.flipped
    ]


def _merged(abort: Abort, known: Abort | None) -> Abort:
    """Lay an abort over one that is decided already: it can ask for more, not for less."""
    if known is None:
        return abort
    more = {"force": abort.force or known.force, "cascade": abort.cascade or known.cascade}
    return (known if more == known.model_dump(include=set(more)) else abort).model_copy(update=more)


async def passed(conn: Connection, found: store.Migration) -> str | None:
    """Say which later migration has taken the way back away, if one has."""
    past = await chain.past_return(conn, found.id)
    if past is None:
        return None
    return f"{past.name} builds on version {found.design.to_version} and is {'done' if past.ended else 'in contract'}"


async def _later(conn: Connection, found: store.Migration, *, cascade: bool) -> list[chain.Live]:
    """Give the later live migrations, the newest first; refuse where they stand in the way."""
    if past := await chain.past_return(conn, found.id):
        raise ActRefused(
            f"migration {past.name} builds on version {found.design.to_version} and is past its point of no return"
            f" ({'done' if past.ended else 'in contract'}): there is no way back",
            hint=f"Go on: pgduet status {found.name}. What {past.name} made cannot be taken back.",
        )
    later = await chain.after(conn, found.id)
    if later and not cascade:
        names = ", ".join(each.standing().detail for each in later)
        raise BuiltUpon(
            f"on version {found.design.to_version} builds {names}",
            hint=f"Roll back {later[0].name} first, or all of them: pgduet rollback {found.name} --cascade",
        )
    return later


async def _runs(client: Client, workflow_id: str) -> bool:
    try:
        described = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return described.status is WorkflowExecutionStatus.RUNNING


async def _send_back(client: Client, other: chain.Live, claim: Claim) -> None:
    """Tell a workflow to roll back; where none runs, start one that does (in one call, so that none is missed)."""
    by = f"cascade of {claim.reference.name} by {claim.abort.actor}"
    reason = f"{by}: {claim.abort.reason}" if claim.abort.reason else by
    abort = Abort(actor=claim.abort.actor, reason=reason[:REASON_LENGTH], force=claim.abort.force, cascade=True)
    await client.start_workflow(
        "Migration",
        Start(plan=other.plan, mode="rollback", **abort.model_dump()),
        id=other.workflow_id,
        task_queue=activity.info().task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        start_signal="abort",
        start_signal_args=[abort],
    )
