"""Messages as any program may send them: payloads of any kind through Temporal's own API, past every client library."""

import asyncio
from typing import Any
from uuid import uuid4

from temporalio.api.common.v1 import Header, Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage as Stage
from temporalio.api.enums.v1 import WorkflowTaskFailedCause as Cause
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, Outcome, Request, WaitPolicy
from temporalio.api.workflowservice.v1 import (
    QueryWorkflowRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
)
from temporalio.client import Client


def payload(data: bytes, encoding: bytes | None = b"json/plain", **metadata: bytes) -> Payload:
    """Make a payload whose encoding need not be what it says."""
    return Payload(data=data, metadata={**({"encoding": encoding} if encoding is not None else {}), **metadata})


class Raw:
    """Sends payloads to one workflow."""

    def __init__(self, client: Client, workflow: str) -> None:
        self.client = client
        self.execution = WorkflowExecution(workflow_id=workflow)

    async def signal(self, name: str, *payloads: Payload, header: dict[str, Payload] | None = None) -> None:
        """Send a signal."""
        request = SignalWorkflowExecutionRequest(
            namespace=self.client.namespace,
            workflow_execution=self.execution,
            signal_name=name,
            input=Payloads(payloads=payloads),
            header=Header(fields=header or {}),
            request_id=uuid4().hex,
        )
        await self.client.workflow_service.signal_workflow_execution(request, retry=True)

    async def update(self, name: str, *payloads: Payload, header: dict[str, Payload] | None = None) -> Outcome:
        """Send an update; gives its outcome, which is a failure where it was refused."""
        request = UpdateWorkflowExecutionRequest(
            namespace=self.client.namespace,
            workflow_execution=self.execution,
            wait_policy=WaitPolicy(lifecycle_stage=Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED),
            request=Request(
                meta=Meta(update_id=uuid4().hex, identity="stranger"),
                input=Input(name=name, args=Payloads(payloads=payloads), header=Header(fields=header or {})),
            ),
        )
        async with asyncio.timeout(20):
            while True:
                answer = await self.client.workflow_service.update_workflow_execution(request, retry=True)
                if answer.HasField("outcome"):
                    return answer.outcome

    async def query(self, name: str, *payloads: Payload) -> Payloads:
        """Ask a query; the server's refusal is raised."""
        request = QueryWorkflowRequest(
            namespace=self.client.namespace,
            execution=self.execution,
            query=WorkflowQuery(query_type=name, query_args=Payloads(payloads=payloads)),
        )
        answer = await self.client.workflow_service.query_workflow(request)
        return answer.query_result

    async def start(self, kind: str, queue: str, *payloads: Payload, header: dict[str, Payload] | None = None) -> None:
        """Start a workflow."""
        request = StartWorkflowExecutionRequest(
            namespace=self.client.namespace,
            workflow_id=self.execution.workflow_id,
            workflow_type=WorkflowType(name=kind),
            task_queue=TaskQueue(name=queue),
            input=Payloads(payloads=payloads),
            header=Header(fields=header or {}),
            request_id=uuid4().hex,
            identity="stranger",
        )
        await self.client.workflow_service.start_workflow_execution(request)


async def failed_tasks(client: Client, workflow: str) -> list[Any]:
    """Give the reasons for which workflow tasks failed in the newest run.

    Where more than a hundred messages come during one task, the server itself gives that task up and begins another.
    """
    history = await client.get_workflow_handle(workflow).fetch_history()
    return [
        event.workflow_task_failed_event_attributes.failure.message
        for event in history.events
        if event.HasField("workflow_task_failed_event_attributes")
        and event.workflow_task_failed_event_attributes.cause != Cause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
    ]
