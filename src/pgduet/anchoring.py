"""The heads of a database's audit log that its migrations have kept in Temporal, in the memos of their workflows.

Mechanism: closed and running workflows are listed by type and id; the memo of one that runs is read from its description,
which does not lag as the listing does. Limits: what Temporal's retention has removed is no anchor any more; a workflow
without the memo, or with one that is not ours, is simply none.
"""

from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from pgduet.audits import ANCHORS, read_head
from pgduet.finding import MIGRATION, parts
from pgduet.messages import workflow_id


@dataclass(frozen=True, slots=True)
class Kept:
    """Each head with the migration that kept it first found, and how many migrations kept any."""

    heads: dict[tuple[int, str], str]
    migrations: int


async def kept(client: Client, database: str) -> Kept:
    """Read what all migrations of a database have kept, those that have ended included."""
    heads: dict[tuple[int, str], str] = {}
    with_heads: set[str] = set()
    query = f"WorkflowType = '{MIGRATION}' AND WorkflowId STARTS_WITH '{workflow_id(database, '')}'"
    async for run in client.list_workflows(query):
        for head in await _heads(client, run):
            heads.setdefault(head, parts(run.id)[1])
            with_heads.add(run.id)
    return Kept(heads, len(with_heads))


async def _heads(client: Client, run: WorkflowExecution) -> list[tuple[int, str]]:
    """Read one run's memo."""
    if run.status is WorkflowExecutionStatus.RUNNING:
        run = await client.get_workflow_handle(run.id, run_id=run.run_id).describe()
    try:
        found = await run.memo_value(ANCHORS, [])
    except (ValueError, TypeError, RuntimeError):  # written by something else, in a form of its own
        return []
    read = [read_head(text) for text in found] if isinstance(found, list) else []
    return [head for head in read if head is not None]
