"""Which migrations there are: the newest run of each, by Temporal's listing.

Limits: the listing lags behind by up to a second or so, and ends at the newest thousand runs.
"""

from collections.abc import Iterable

from temporalio.client import Client, WorkflowExecution

from pgduet.errors import UnknownMigration
from pgduet.plan.problems import did_you_mean, listed

MIGRATION = "Migration"
_LIMIT = 1000


def parts(workflow: str) -> tuple[str, str]:
    """Give the database and the name that a migration's workflow id holds."""
    _, database, name = workflow.split("/", 2)
    return database, name


async def newest_runs(client: Client, database: str | None = None) -> dict[str, WorkflowExecution]:
    """List the newest run of each migration by its workflow id, the newest first."""
    newest: dict[str, WorkflowExecution] = {}
    async for run in client.list_workflows(f"WorkflowType = '{MIGRATION}'", limit=_LIMIT):
        ours = run.id.count("/") >= 2 and database in {None, parts(run.id)[0]}
        if ours and (run.id not in newest or newest[run.id].start_time < run.start_time):
            newest[run.id] = run
    return dict(sorted(newest.items(), key=lambda item: item[1].start_time, reverse=True))


def unknown(name: str, known: Iterable[str], database: str | None = None) -> UnknownMigration:
    """Make the error for a name that no known workflow id has, with what was perhaps meant."""
    known = list(known)
    elsewhere = sorted(parts(workflow)[0] for workflow in known if parts(workflow)[1] == name)
    if elsewhere:
        message = f"database `{database}` has no migration `{name}`"
        return UnknownMigration(message, hint=f"It is a migration of {listed(elsewhere)}.")
    names = sorted({parts(workflow)[1] for workflow in known})
    hint = f"Known migrations: {listed(names)}." if names else "None was started yet: `pgduet start PLAN`."
    return UnknownMigration(f"there is no migration `{name}`{did_you_mean(name, names)}", hint=hint)
