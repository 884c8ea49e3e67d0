"""A worker that is new to a workflow, and is asked about it first: what it then does must be what a replay makes of it.

A query outside of a workflow task has a new worker replay the history. Where events have come since the last task (a timer fired,
an activity ended), Temporal's core shows them to the workflow right then, although the task that they belong to has yet to begin.
If that task brings an update or a signal besides, the workflow sees it after them; but whoever replays the history sees it before
them, in one piece. Then the commands come in another order, and the workflow is stuck for good, since no worker can replay it. A
worker that is killed while somebody watches, and an act at the next one, are enough.

So a workflow that has seen such events early does nothing more: its next task is failed, whereupon the core forgets it, and the
server gives the task again at once, with the whole history. How it is known: what is no replay has the time of its own workflow
task; without a task it has the time of the last one. Limit: the history has a failed workflow task then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

AGAIN = "a query was answered before this workflow task: replayed from the beginning, so that nothing is out of order"


@dataclass(frozen=True)
class OrderedRunner(WorkflowRunner):
    """Runs workflows in the sandbox, and none that has seen events before their workflow task."""

    inner: WorkflowRunner = field(default_factory=SandboxedWorkflowRunner)

    def prepare_workflow(self, defn: Any) -> None:
        """Check a workflow when a worker is made."""
        self.inner.prepare_workflow(defn)

    def set_worker_level_failure_exception_types(self, types: Sequence[type[BaseException]]) -> None:
        """Take which exceptions fail a workflow."""
        self.inner.set_worker_level_failure_exception_types(types)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Begin a workflow, or its replay."""
        return _Ordered(self.inner.create_instance(det))


class Between(WorkflowInstance):
    """Stands between Temporal's core and a workflow in a worker's memory; whoever extends it decides what passes."""

    def __init__(self, inner: WorkflowInstance) -> None:
        """Take the workflow's own instance."""
        self.inner = inner

    def get_info(self) -> Any:
        """Ask the workflow's own instance, as all below do."""
        return self.inner.get_info()

    def get_thread_id(self) -> int | None:
        """Ask in which thread it runs."""
        return self.inner.get_thread_id()

    def get_serialization_context(self, command_info: Any) -> Any:
        """Ask what a command is serialized for."""
        return self.inner.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        """Ask what a command's payload is stored for."""
        return self.inner.get_external_store_context(command_info)


class _Ordered(Between):
    """Lets nothing pass that is out of order."""

    def __init__(self, inner: WorkflowInstance) -> None:
        """Begin before the first workflow task."""
        super().__init__(inner)
        self.task_ns = 0
        self.length = 0
        self.early = False

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        """Let a workflow see what has come, unless it has seen something too early."""
        kinds = {job.WhichOneof("variant") for job in act.jobs}
        if kinds <= {"query_workflow", "remove_from_cache"}:
            return self.inner.activate(act)
        if self.early:
            return _again(act.run_id)
        task_ns = act.timestamp.ToNanoseconds()
        self.early = not act.is_replaying and act.history_length > self.length and task_ns == self.task_ns
        self.task_ns, self.length = task_ns, act.history_length
        return self.inner.activate(act)


def _again(run_id: str) -> WorkflowActivationCompletion:
    """Fail a workflow task."""
    completion = WorkflowActivationCompletion(run_id=run_id)
    completion.failed.failure.message = AGAIN
    completion.failed.failure.application_failure_info.type = "OutOfOrder"
    return completion
