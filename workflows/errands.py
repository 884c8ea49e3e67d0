"""Short workflows: setup of a database, the live part of `pgduet check`, the facts of a report.

They exist because only workers hold DSNs.
"""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import CheckInput, CheckResult, SetupInput, SetupResult
    from pgduet.report.facts import ReportFacts, ReportInput
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


@workflow.defn(name="Report")
class Report:
    """Reads what a report rests on."""

    @workflow.run
    async def run(self, raw: object = None) -> ReportFacts:
        """Read a database's records of a migration; touches nothing."""
        request = read(ReportInput, raw)
        return await call("report_facts", request, ReportFacts, f"read the records of {request.name}")
