"""The audit log as people use it: its head, its pages, and the check against what was kept outside the database."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio import activity

from pgduet import audit
from pgduet.activities.engine import Engine, beating
from pgduet.anchoring import Kept, kept
from pgduet.audit.exported import line
from pgduet.audit.wire import theirs, verdict
from pgduet.audits import AuditHead, AuditInput, AuditPage, AuditPageInput, AuditVerdict
from pgduet.errors import AuditMissing, PgduetError
from pgduet.postgres.session import Connection

PAGE_ROWS = 500
PAGE_BYTES = 256 * 1024
"""Of a page's lines; Temporal takes payloads of up to 2 MB, and warns from 512 KB on."""
LINE_BYTES = 1_500_000


class Auditing:
    """Reads the log; writes nothing."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="audit_head")
    async def audit_head(self, request: AuditInput) -> AuditHead:
        """Read the head row."""
        async with self._log(request.database) as conn:
            found = await audit.head(conn)
            return AuditHead(database=request.database, head=f"{found.seq}:{found.hash}")

    @activity.defn(name="audit_verify")
    async def audit_verify(self, request: AuditInput) -> AuditVerdict:
        """Check the log; heads in Temporal are read first, as only what is written already can be in the log."""
        async with beating():
            outside = await kept(activity.client(), request.database)
            in_temporal = [
                audit.Anchor(*head, where=f"that {name} kept in Temporal") for head, name in outside.heads.items()
            ]
            given = theirs(request.heads)
            async with self._log(request.database, outside) as conn:
                found = await audit.verify(conn, anchors=[*in_temporal, *given])
        return verdict(request.database, found).model_copy(
            update={"heads": len(given), "anchors": len(outside.heads), "migrations": outside.migrations}
        )

    @activity.defn(name="audit_page")
    async def audit_page(self, request: AuditPageInput) -> AuditPage:
        """Read one page for an export: as many entries as a payload may hold."""
        place = None if request.after_seq is None else audit.Receipt(request.after_seq, request.after_hash)
        lines: list[str] = []
        size = 0
        async with self._log(request.database) as conn:
            entries = await audit.page(conn, place, PAGE_ROWS)
            for entry in entries:
                written = line(entry)
                # As they travel: inside a JSON text, with its own escapes.
                size += len(json.dumps(written))
                if size > LINE_BYTES and not lines:
                    raise PgduetError(f"entry {entry['seq']} is too large to be exported through Temporal")
                if size > PAGE_BYTES and lines:
                    break
                lines.append(written)
                place = audit.Receipt(entry["seq"], entry["hash"])
        return AuditPage(
            lines=lines,
            after_seq=place.seq if place else None,
            after_hash=place.hash if place else "",
            last=len(lines) == len(entries) < PAGE_ROWS,
        )

    @asynccontextmanager
    async def _log(self, database: str, outside: Kept | None = None) -> AsyncIterator[Connection]:
        """Open a session on a database that has a log."""
        async with self.engine.connection(database, "audit") as conn:
            if not await audit.exists(conn):
                message = f"{database} has no audit log"
                if outside and outside.heads:
                    message += (
                        f", but {outside.migrations} of its migrations kept heads of one in Temporal, up to entry"
                        f" {max(seq for seq, _ in outside.heads)}: it was dropped, or this is another database"
                    )
                raise AuditMissing(message, hint=f"A database that was never set up: `pgduet setup {database}`.")
            yield conn
