"""Short workflows about the audit log of a database. They exist because only workers hold DSNs.

An export is a run for each page, so that neither a payload nor a history grows with the log.
"""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet import audits
    from pgduet.audits import AuditInput, AuditPage, AuditPageInput, AuditVerdict
    from pgduet.workflows.calls import call, read


@workflow.defn(name="AuditHead")
class AuditHead:
    """Gives the head of the log."""

    @workflow.run
    async def run(self, raw: object = None) -> audits.AuditHead:
        """Read it."""
        request = read(AuditInput, raw)
        return await call("audit_head", request, audits.AuditHead, f"head of the audit log of {request.database}")


@workflow.defn(name="AuditVerify")
class AuditVerify:
    """Checks the log against itself and against every head that was kept outside."""

    @workflow.run
    async def run(self, raw: object = None) -> AuditVerdict:
        """Check it; a log that is broken is an answer, not a failure."""
        request = read(AuditInput, raw)
        return await call("audit_verify", request, AuditVerdict, f"verify the audit log of {request.database}")


@workflow.defn(name="AuditExport")
class AuditExport:
    """Gives one page of the log."""

    @workflow.run
    async def run(self, raw: object = None) -> AuditPage:
        """Read the page after a place."""
        request = read(AuditPageInput, raw)
        return await call("audit_page", request, AuditPage, f"a page of the audit log of {request.database}")
