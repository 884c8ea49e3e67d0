"""The report's part on a worker: only here can the database's own records be read. Nothing is written."""

from temporalio import activity

from pgduet.activities.engine import Beat, Engine, beating
from pgduet.postgres.reporting import read
from pgduet.report.facts import ReportFacts, ReportInput


class Reporting:
    """Reads facts."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="report_facts")
    async def report_facts(self, request: ReportInput) -> ReportFacts:
        """Read all that the database knows about the migrations of one name; a database without metadata knows nothing."""
        async with self.engine.connection(request.database, f"report/{request.name}") as conn, beating(Beat()):
            return await read(conn, request.database, request.name)
