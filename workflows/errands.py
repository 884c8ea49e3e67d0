"""Short workflows: setup of a database, and the live part of `pgduet check`. They exist because only workers hold DSNs."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import CheckInput, CheckResult, SetupInput, SetupResult
    from pgduet.workflows.calls import call, read


@workflow.defn(name="Setup")
class Setup:
    """Creates the metadata and registers search attributes."""

    @workflow.run
    async def run(self, raw: object = None) -> SetupResult:
        """Set a database up; safe to run again."""
        request = read(SetupInput, raw)
        return await call("setup", request, SetupResult, f"set up {request.database}")


@workflow.defn(name="Check")
class Check:
    """Checks a plan against the live catalogue."""

    @workflow.run
    async def run(self, raw: object = None) -> CheckResult:
        """Survey a plan; touches nothing."""
        request = read(CheckInput, raw)
        return await call("check", request, CheckResult, f"check {request.plan.get('name', 'a plan')}")
