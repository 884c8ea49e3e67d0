"""Who asks a task queue for work, as Temporal tells it.

Limits: Temporal forgets a poller five minutes after it last asked. A worker whose activity slots are all taken does not ask for
activities meanwhile; workflow tasks are short, so that one asks for those as long as it lives.
"""

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

WORKFLOWS = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
ACTIVITIES = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY


async def pollers(client: Client, queue: str, kind: TaskQueueType.ValueType = WORKFLOWS) -> set[str]:
    """Give the identities of those that ask for tasks of a kind."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
    )
    answer = await client.workflow_service.describe_task_queue(request)
    return {poller.identity for poller in answer.pollers}


async def polled(client: Client, queue: str, pid: int) -> bool:
    """Tell whether a worker of this machine asks for both kinds of tasks; one that has just been killed is listed for a while."""
    found = [await pollers(client, queue, kind) for kind in (WORKFLOWS, ACTIVITIES)]
    return all(any(identity.startswith(f"{pid}@") for identity in identities) for identities in found)
