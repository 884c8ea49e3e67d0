"""The desk: where people's acts arrive, as signals or as updates, and are accepted or refused by the same rules.

An update answers; a signal that cannot be accepted is noted and ignored. Neither can wedge or fail a workflow: their one
argument is of any type and is validated here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ValidationError
from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import Abort, Act, Answer, Approve, Route, Status, Throttle, VerifyNow, WaitingFor
    from pgduet.phases import Phase, State
    from pgduet.plan.policy import Policy

DECISIONS_KEPT = 50
ENDED = frozenset({State.DONE, State.ROLLED_BACK, State.FAILED})


@dataclass
class Errand:
    """An act that needs an activity; `told` is what became of it."""

    act: str
    message: BaseModel
    told: str | None = None


class Desk:
    """Takes acts and remembers what they ask for; the migration looks here when it can do something about it."""

    def __init__(self, status: Status, policy: Policy, now: Callable[[], datetime]) -> None:
        """Begin with an empty in-tray."""
        self.status = status
        self.policy = policy
        self.now = now
        self.abort: Abort | None = None
        self.advanced: Act | None = None
        self.paused = False
        self.before_pause: WaitingFor | None = None
        self.errands: list[Errand] = []
        """Acts that need an activity: throttle, pause, resume, route, verify."""
        self.no_return = False

    # Taking acts

    def check(self, act: str, raw: object) -> BaseModel:
        """Validate an act and whether it is possible now.

        Raises:
            ApplicationError: of type ActRefused, saying why, and what is possible.
        """
        model, possible, _ = self._rules()[act]
        try:
            message = model.model_validate({} if raw is None else raw)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or act}: {e['msg']}" for e in error.errors())
            raise refusal(f"{act}: {wrong}") from None
        if reason := possible(message):
            raise refusal(reason)
        return message

    def take(self, act: str, raw: object) -> BaseModel:
        """Accept an act."""
        message = self.check(act, raw)
        self._rules()[act][2](message)
        actor, reason = getattr(message, "actor", "unknown"), getattr(message, "reason", None)
        self.decided(f"{act} by {actor}" + (f": {reason}" if reason else ""))
        return message

    def hear(self, act: str, raw: object) -> None:
        """Take a signal: as `take`, but what cannot be accepted is noted and ignored."""
        try:
            self.take(act, raw)
        except ApplicationError as error:
            self.decided(f"ignored: {error.message}")

    def answer(self, message: str) -> Answer:
        """Tell what became of an update; what comes next is for the status to say, once the migration has moved."""
        commands = [f"pgduet status {self.status.name} --watch"]
        return Answer(message=message, phase=self.status.phase, next_commands=commands)

    def decided(self, what: str) -> None:
        """Keep a line about a decision."""
        self.status.decisions = [*self.status.decisions, f"{self.now():%Y-%m-%d %H:%M:%S} {what}"][-DECISIONS_KEPT:]

    # What the migration asks

    def wait_for(self, kind: str, detail: str, *commands: str) -> None:
        """Say what is waited for; `since` stays while the kind does."""
        known = self.status.waiting_for
        since = known.since if known and known.kind == kind else self.now()
        self.status.waiting_for = WaitingFor(kind=kind, detail=detail, since=since, next_commands=list(commands))
        if self.status.state is State.RUNNING:
            self.status.state = State.WAITING

    def go_on(self) -> None:
        """Say that nothing is waited for."""
        self.status.waiting_for = None
        self.advanced = None
        if self.status.state is State.WAITING:
            self.status.state = State.RUNNING

    def approved(self, phase: Phase) -> bool:
        """Tell whether the gate before a phase has the approvals that the policy asks."""
        return len(self.status.approvals.get(phase, [])) >= self.policy.approvals_needed(phase)

    def next_commands(self) -> list[str]:
        """Name the commands that make sense now."""
        if self.status.waiting_for:
            return self.status.waiting_for.next_commands
        if self.status.state in ENDED or self.no_return or self.status.state is State.ROLLING_BACK:
            return [f"pgduet status {self.status.name}"]
        return [f"pgduet status {self.status.name} --watch", f"pgduet rollback {self.status.name}"]

    # The rules: model, why not (or nothing), effect

    def _rules(self) -> dict[str, tuple[type[BaseModel], Callable[..., str | None], Callable[..., None]]]:
        return {
            "advance": (Act, self._why_not_advance, self._advance),
            "approve": (Approve, self._why_not_approve, self._approve),
            "abort": (Abort, self._why_not_abort, self._abort),
            "pause": (Act, self._why_not_change, self._pause),
            "resume": (Act, lambda _: None if self.paused else "it is not paused", self._resume),
            "throttle": (Throttle, self._why_not_change, lambda m: self.errands.append(Errand("throttle", m))),
            "route": (Route, self._why_not_route, lambda m: self.errands.append(Errand("route", m))),
            "verify": (VerifyNow, self._why_not_verify, lambda m: self.errands.append(Errand("verify", m))),
        }

    def _why_not_change(self, _: object) -> str | None:
        if self.status.state in ENDED:
            return f"it has ended ({self.status.state})"
        if self.abort:
            return "it is rolling back"
        return "contract has begun: there is no way but on" if self.no_return else None

    def _why_not_advance(self, act: Act) -> str | None:
        waiting = self.status.waiting_for
        if waiting is None or waiting.kind == "paused":
            return self._why_not_change(act) or "it waits for nobody: there is nothing to advance"
        if waiting.kind == "approval":
            return f"approvals are missing: {waiting.detail}. Use: {waiting.next_commands[0]}"
        if waiting.kind in {"earlier", "later"}:
            return f"other migrations come first: {waiting.detail}"
        return f"clients still use it: {waiting.detail}" if waiting.kind in {"census", "clients"} else None

    def _advance(self, act: Act) -> None:
        self.advanced = act
        self.errands.append(Errand("advance", act))

    def _why_not_approve(self, act: Approve) -> str | None:
        if reason := self._why_not_change(act):
            return reason
        if not self.policy.approvals_needed(act.gate):
            return f"the gate before {act.gate} asks for no approval"
        if act.gate.reached(self.status.phase):
            return f"{act.gate} has begun already"
        if act.actor in self.status.approvals.get(act.gate, []):
            return (
                f"{act.actor} has approved {act.gate} already; it needs {self.policy.approvals_needed(act.gate)} actors"
            )
        return None

    def _approve(self, act: Approve) -> None:
        given = self.status.approvals.get(act.gate, [])
        self.status.approvals = {**self.status.approvals, act.gate: [*given, act.actor]}
        self.errands.append(Errand("approve", act))

    def _why_not_abort(self, act: Abort) -> str | None:
        if self.no_return:
            return "contract has begun: the old representation is being dropped, there is no way back"
        if self.status.state in ENDED:
            return f"it has ended ({self.status.state})"
        if self.abort and not (act.force and not self.abort.force):
            return "it is rolling back already"
        return None

    def _abort(self, act: Abort) -> None:
        self.abort = act
        self.status.rollback = act.actor + (f": {act.reason}" if act.reason else "")

    def _pause(self, act: Act) -> None:
        self.hold(act, "paused", "somebody to resume it", f"pgduet resume {self.status.name}")

    def hold(self, act: Act, kind: str, detail: str, *commands: str) -> None:
        """Stop here until somebody resumes it; what was waited for before is remembered."""
        if not self.paused:
            self.before_pause = self.status.waiting_for
            self.errands.append(Errand("pause", act))
        self.paused = True
        self.status.state = State.PAUSED
        self.wait_for(kind, detail, *commands)

    def _resume(self, act: Act) -> None:
        self.paused = False
        self.status.state = State.RUNNING
        self.go_on()
        if held := self.before_pause:
            self.wait_for(held.kind, held.detail, *held.next_commands)
        self.before_pause = None
        self.errands.append(Errand("resume", act))

    def _why_not_route(self, act: Route) -> str | None:
        if reason := self._why_not_change(act):
            return reason
        if not Phase.SHIFT.reached(self.status.phase):
            return f"reads can be moved from shift on; it is in {self.status.phase}"
        return None

    def _why_not_verify(self, act: VerifyNow) -> str | None:
        if reason := self._why_not_change(act):
            return reason
        return (
            None
            if Phase.VERIFY.reached(self.status.phase)
            else f"there is nothing to compare yet in {self.status.phase}"
        )


def refusal(reason: str) -> ApplicationError:
    """Make the error with which an act is refused."""
    return ApplicationError(reason, type="ActRefused", non_retryable=True)


def reason_of(error: ApplicationError) -> str:
    """Give the reason of a refusal in one line, without code and cure where the error has fields of its own."""
    facts = error.details[0] if error.details else None
    return str(facts["message"]) if isinstance(facts, dict) and facts.get("message") else error.message
