"""The audit log of a database, from the client's side: head, verdict, export. Part of `pgduet.client.Migrations`.

Each is a short workflow on a worker; an export is one for each page of up to a quarter of a megabyte.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel
from temporalio.client import Client

from pgduet.audits import AuditHead, AuditInput, AuditPage, AuditPageInput, AuditVerdict
from pgduet.tasks import Result, run_task


class AuditLogs:
    """What `Migrations` can do with audit logs."""

    client: Client
    task_queue: str

    async def audit_head(self, database: str) -> str:
        """Give the last entry as `seq:hash`, to be kept outside.

        Raises:
            AuditMissing: the database has no log.
        """
        given = AuditInput(database=database)
        return (await self._audit("AuditHead", given, AuditHead, f"audit/{database}/head/{uuid4().hex}")).head

    async def audit_verify(self, database: str, heads: Iterable[str] = ()) -> AuditVerdict:
        """Check the whole log, against the heads in Temporal and against `heads` (`seq:hash`) kept elsewhere.

        A log that is broken is told by the verdict; its `error()` is what is wrong and what to do.

        Raises:
            AuditMissing: the database has no log.
        """
        given = AuditInput(database=database, heads=list(heads))
        return await self._audit("AuditVerify", given, AuditVerdict, f"audit/{database}/verify/{uuid4().hex}")

    async def audit_export(self, database: str) -> AsyncIterator[str]:
        """Give the log's entries in order, each as one line of JSON, without the line's end.

        Raises:
            AuditMissing: the database has no log.
        """
        page, number, export = AuditPage(lines=[]), 0, f"audit/{database}/export/{uuid4().hex}"
        while not page.last:
            given = AuditPageInput(database=database, after_seq=page.after_seq, after_hash=page.after_hash)
            number += 1
            page = await self._audit("AuditExport", given, AuditPage, f"{export}/{number}")
            for line in page.lines:
                yield line

    async def _audit(self, kind: str, given: BaseModel, result: type[Result], workflow: str) -> Result:
        return await run_task(self.client, given, result, kind=kind, workflow=workflow, task_queue=self.task_queue)


def audit_file(file: Path, heads: Sequence[str] = ()) -> AuditVerdict:
    """Check an export by its file, against itself and against `heads` kept elsewhere; needs no server.

    Raises:
        OSError: the file cannot be read.
    """
    from pgduet.audit.wire import check_file  # noqa: PLC0415  loads psycopg, which nothing else of the client needs

    return check_file(file, heads)
