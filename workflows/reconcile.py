"""Reconcile compares both versions of a migration once and tells the migration; a Temporal Schedule starts one after the other.

It knows no SQL and decides nothing: what a difference means is for the migration to say. Limits: where no workflow looks after the
migration nobody is told, and the result stays in the database, in the metrics and in this workflow's own result.
"""

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import Parity, ParityRequest
    from pgduet.reconciling import MayReconcile, Reconciled, ReconcileInput
    from pgduet.texts import cut
    from pgduet.workflows.calls import call, innermost, read

REASON_BYTES = 1500


@workflow.defn(name="Reconcile")
class Reconcile:
    """One comparison."""

    @workflow.run
    async def run(self, raw: object = None) -> Reconciled:
        """Compare, where there is something to compare now; a comparison that fails for good is told too, and fails the run."""
        task = read(ReconcileInput, raw)
        may = await call("may_reconcile", task, MayReconcile, "is there something to compare?")
        if may.why_not:
            return Reconciled(skipped=may.why_not, heard=False)
        request = ParityRequest(reference=task.reference, scheduled=True)
        try:
            parity = await call("parity", request, Parity, "compare all rows")
        except ActivityError as error:
            if not is_cancelled_exception(error):
                await _told(task, Reconciled(failing=cut(innermost(error), REASON_BYTES)))
            raise
        return await _told(task, Reconciled(parity=parity))


async def _told(task: ReconcileInput, told: Reconciled) -> Reconciled:
    try:
        await workflow.get_external_workflow_handle(task.workflow_id).signal("reconciled", told)
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        return told.model_copy(update={"heard": False})
    return told
