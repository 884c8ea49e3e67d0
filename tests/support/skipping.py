"""Skipped time: workflows that ask for a timer get one of a millisecond, and a clock that went on by all that they asked for.

Mechanism: a runner that stands between Temporal's core and the workflow. It shortens the timers that go out; when one has fired,
what was left out is added to the time that the workflow is told from then on, in its later runs too. A timer that was cancelled has
skipped nothing. All else is real: server, commands, history, activities, continue-as-new. Limits: a clock lives as long as its
runner, so one worker must see a workflow from start to end; activities and the database stay in real time.

The SDK's own skipping (`start_time_skipping_v2`) needs a newer server than the one that we build: 1.29 takes the wish and ignores
it.
"""

from dataclasses import dataclass, field
from typing import Any

from temporalio import workflow
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from pgduet.cold import Between

MOMENT_NS = 1_000_000


@dataclass
class Clocks:
    """How much time each workflow has skipped, and had skipped when each of its runs began."""

    skipped_ns: dict[str, int] = field(default_factory=dict)
    before_run_ns: dict[str, int] = field(default_factory=dict)

    def begin(self, info: workflow.Info) -> int:
        """Tell what to start a run's clock with; the same again when the run is replayed."""
        return self.before_run_ns.setdefault(info.run_id, self.skipped_ns.get(info.workflow_id, 0))


@dataclass(frozen=True)
class SkippingRunner(WorkflowRunner):
    """Runs workflows in the sandbox, in skipped time."""

    clocks: Clocks = field(default_factory=Clocks)
    inner: WorkflowRunner = field(default_factory=SandboxedWorkflowRunner)

    def prepare_workflow(self, defn: Any) -> None:
        self.inner.prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return _Skipping(self.inner.create_instance(det), det.info, self.clocks)


class _Skipping(Between):
    def __init__(self, inner: WorkflowInstance, info: workflow.Info, clocks: Clocks) -> None:
        super().__init__(inner)
        self.info, self.clocks = info, clocks
        self.skipped_ns = clocks.begin(info)
        self.left_out_ns: dict[int, int] = {}

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        for job in act.jobs:
            if job.HasField("fire_timer"):
                self.skipped_ns += self.left_out_ns.pop(job.fire_timer.seq)
        if act.HasField("timestamp"):
            act.timestamp.FromNanoseconds(act.timestamp.ToNanoseconds() + self.skipped_ns)
        completion = self.inner.activate(act)
        for command in completion.successful.commands:
            if command.HasField("start_timer"):
                asked = command.start_timer.start_to_fire_timeout
                self.left_out_ns[command.start_timer.seq] = max(0, asked.ToNanoseconds() - MOMENT_NS)
                asked.FromNanoseconds(min(asked.ToNanoseconds(), MOMENT_NS))
        self.clocks.skipped_ns[self.info.workflow_id] = self.skipped_ns
        return completion
