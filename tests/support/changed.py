"""Workflows as a careless change would leave them: each runs one more activity than the histories know."""

from datetime import timedelta

from temporalio import workflow

from pgduet.messages import CheckResult, SetupResult, SliceResult, Status
from pgduet.reconciling import Reconciled
from pgduet.workflows.registered import Backfill, Check, Migration, Reconcile, Setup


async def inserted() -> None:
    await workflow.execute_activity("inserted", start_to_close_timeout=timedelta(seconds=1))


@workflow.defn(name="Migration")
class ChangedMigration(Migration):
    @workflow.init
    def __init__(self, raw: object = None) -> None:
        super().__init__(raw)

    @workflow.run
    async def run(self, raw: object = None) -> Status:
        await inserted()
        return await super().run(raw)


@workflow.defn(name="Backfill")
class ChangedBackfill(Backfill):
    @workflow.run
    async def run(self, raw: object = None) -> SliceResult:
        await inserted()
        return await super().run(raw)


@workflow.defn(name="Reconcile")
class ChangedReconcile(Reconcile):
    @workflow.run
    async def run(self, raw: object = None) -> Reconciled:
        await inserted()
        return await super().run(raw)


@workflow.defn(name="Setup")
class ChangedSetup(Setup):
    @workflow.run
    async def run(self, raw: object = None) -> SetupResult:
        await inserted()
        return await super().run(raw)


@workflow.defn(name="Check")
class ChangedCheck(Check):
    @workflow.run
    async def run(self, raw: object = None) -> CheckResult:
        await inserted()
        return await super().run(raw)


CHANGED = (ChangedMigration, ChangedBackfill, ChangedReconcile, ChangedSetup, ChangedCheck)
