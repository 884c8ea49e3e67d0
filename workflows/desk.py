"""The desk: where people's acts arrive, as signals or as updates, and are accepted or refused by the same rules.

An update answers; a signal that cannot be accepted is noted and ignored. Neither can wedge or fail a workflow: their one
argument is of any type and is validated here. Nor can many of them: what they leave behind is bounded, in the status as in the
queue of acts that need an activity.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ValidationError
from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from pgduet.describe import IGNORED, is_ignored
    from pgduet.messages import Abort, Act, Advance, Answer, Approve, Route, Status, Throttle, VerifyNow, WaitingFor
    from pgduet.phases import Phase, State
    from pgduet.plan.policy import Policy
    from pgduet.texts import shown
    from pgduet.wire import Unreadable, problems

DECISIONS_KEPT = 50
IGNORED_KEPT = 10
"""Of the decisions kept, so many may be ignored signals: a flood of them must not wash the others away."""
ERRANDS_QUEUED = 20
HOLDS = frozenset({"paused", "later"})
"""What a pause itself waits for: somebody, or later migrations to go, where a cancellation brought it."""
ENDED = frozenset({State.DONE, State.ROLLED_BACK, State.FAILED})


@dataclass
class Errand:
    """An act that needs an activity; `told` is what became of it."""

    act: str
    message: BaseModel
    told: str | None = None
    begun: bool = False
    stopped: bool = False
    """A rollback has ended it."""

    @property
    def compares(self) -> bool:
        """Tell whether it is a comparison, which may take hours, or be held for days."""
        return isinstance(self.message, VerifyNow)


class Desk:
    """Takes acts and remembers what they ask for; the migration looks here when it can do something about it."""

    def __init__(self, status: Status, policy: Policy, now: Callable[[], datetime]) -> None:
        """Begin with an empty in-tray."""
        self.status = status
        self.policy = policy
        self.now = now
        self.abort: Abort | None = None
        self.advanced: Advance | None = None
        self.takes_force = False
        """Whether an advance by force goes past clients; not in a run that began before there was any."""
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
        message = understood(act, model, raw)
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

    def hear(self, act: str, raw: object) -> bool:
        """Take a signal: as `take`, but what cannot be accepted is noted and ignored; tells whether it was accepted."""
        try:
            self.take(act, raw)
        except ApplicationError as error:
            self.ignored(error.message)
            return False
        return True

    def answer(self, message: str) -> Answer:
        """Tell what became of an update; what comes next is for the status to say, once the migration has moved."""
        commands = [f"pgduet status {self.status.name} --watch"]
        return Answer(message=message, phase=self.status.phase, next_commands=commands)

    def decided(self, what: str) -> None:
        """Keep a line about a decision."""
        line = f"{self.now():%Y-%m-%d %H:%M:%S} {shown(what)}"
        self.status.decisions = [*self.status.decisions, line][-DECISIONS_KEPT:]

    def ignored(self, what: str) -> None:
        """Keep a line about a message that changed nothing, in the place of the oldest such line where there are many."""
        noted = [line for line in self.status.decisions if is_ignored(line)]
        if len(noted) >= IGNORED_KEPT:
            self.status.decisions.remove(noted[0])
        self.decided(IGNORED + what)

    def dismiss(self, why: str) -> None:
        """Answer every act that will not be carried out any more."""
        for errand in self.errands:
            errand.told = f"not done: {why}"
        self.errands.clear()

    # What the migration asks

    def wait_for(self, kind: str, detail: str, *commands: str) -> None:
        """Say what is waited for; `since` stays while the kind does."""
        known = self.status.waiting_for
        since = known.since if known and known.kind == kind else self.now()
        offered = [command for command in commands if self.status.no_way_back is None or " rollback " not in command]
        self.status.waiting_for = WaitingFor(kind=kind, detail=detail, since=since, next_commands=offered)
        if self.status.state is State.RUNNING:
            self.status.state = State.WAITING

    def say_paused(self) -> None:
        """Say that it is held until somebody resumes it, unless it is held for something else."""
        if self.status.waiting_for is None:
            self.wait_for(*self._paused())

    def _paused(self) -> tuple[str, str, str]:
        return "paused", "somebody to resume it", f"pgduet resume {self.status.name}"

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
        """Name the commands that make sense now; where rows have drifted, first the one that puts them right."""
        waiting = self.status.waiting_for.next_commands if self.status.waiting_for else []
        repair = f"pgduet verify {self.status.name} --repair"
        if self.status.drift and self.abort is None and not self.no_return and repair not in waiting:
            return [repair, *(waiting or self._usual_commands())]
        return waiting or self._usual_commands()

    def _usual_commands(self) -> list[str]:
        one_way = self.no_return or self.status.no_way_back is not None
        if self.status.state in ENDED or one_way or self.status.state is State.ROLLING_BACK:
            return [f"pgduet status {self.status.name}"]
        return [f"pgduet status {self.status.name} --watch", f"pgduet rollback {self.status.name}"]

    # The rules: model, why not (or nothing), effect

    def _rules(self) -> dict[str, tuple[type[BaseModel], Callable[..., str | None], Callable[..., None]]]:
        return {
            "advance": (Advance, self._why_not_advance, self._advance),
            "approve": (Approve, self._why_not_approve, self._approve),
            "abort": (Abort, self._why_not_abort, self._abort),
            "pause": (Act, self._why_not_pause, self._pause),
            "resume": (Act, self._why_not_resume, self._resume),
            "throttle": (Throttle, self._why_not_throttle, lambda m: self.errands.append(Errand("throttle", m))),
            "route": (Route, self._why_not_route, lambda m: self.errands.append(Errand("route", m))),
            "verify": (VerifyNow, self._why_not_verify, lambda m: self.errands.append(Errand("verify", m))),
        }

    def _why_not_change(self, _: object) -> str | None:
        if self.status.state in ENDED:
            return f"it has ended ({self.status.state})"
        if self.abort:
            return "it is rolling back"
        return "contract has begun: there is no way but on" if self.no_return else self._why_not_now()

    def _why_not_now(self) -> str | None:
        if len(self.errands) < ERRANDS_QUEUED:
            return None
        return f"{len(self.errands)} acts are waiting to be carried out: try again when they have been"

    def _why_not_advance(self, act: Advance) -> str | None:
        waiting = self.status.waiting_for
        turning = self.abort is not None and self.status.state is not State.ROLLING_BACK
        if waiting is None or waiting.kind == "paused" or turning:
            held = f"it is paused. Use: pgduet resume {self.status.name}" if self.paused else None
            return self._why_not_change(act) or held or "it waits for nobody: there is nothing to advance"
        if self.advanced or self._why_not_now():
            return (
                self._why_not_now() or f"{self.advanced.actor if self.advanced else 'somebody'} has advanced it already"
            )
        if waiting.kind == "approval":
            return f"approvals are missing: {waiting.detail}. Use: {waiting.next_commands[0]}"
        if waiting.kind in {"earlier", "later"}:
            return f"other migrations come first: {waiting.detail}"
        if waiting.kind == "census" and self.takes_force:
            past = f"To go past them: pgduet advance {self.status.name} --force"
            return None if act.force else f"clients still use it: {waiting.detail}. {past}"
        return f"clients still use it: {waiting.detail}" if waiting.kind in {"census", "clients"} else None

    def _advance(self, act: Advance) -> None:
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
        return f"{act.gate} has all the approvals that it needs" if self.approved(act.gate) else None

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
        # Whoever adds force takes nothing back: later migrations that were to go first still are.
        cascade = act.cascade or (self.abort is not None and self.abort.cascade)
        self.abort = act.model_copy(update={"cascade": cascade})
        self.status.rollback = act.actor + (f": {act.reason}" if act.reason else "")

    def _why_not_pause(self, act: Act) -> str | None:
        return self._why_not_change(act) or ("it is paused already" if self.paused else None)

    def _pause(self, act: Act) -> None:
        self.hold(act, *self._paused())

    def hold(self, act: Act, kind: str, detail: str, *commands: str) -> None:
        """Stop here until somebody resumes it; what was waited for before is remembered."""
        if not self.paused:
            self.before_pause = self.status.waiting_for
            self.errands.append(Errand("pause", act))
        self.paused = True
        self.status.state = State.PAUSED
        self.wait_for(kind, detail, *commands)

    def _why_not_resume(self, act: Act) -> str | None:
        return self._why_not_change(act) or (None if self.paused else "it is not paused")

    def _why_not_throttle(self, act: Throttle) -> str | None:
        given = act.limits() or act.reset
        return self._why_not_change(act) or (None if given else "it says no pace: give at least one")

    def _resume(self, act: Act) -> None:
        self.paused = False
        self.status.state = State.RUNNING
        waiting = self.status.waiting_for
        # What was under way when it was paused may have met something since, and waits for somebody.
        held = waiting if waiting and waiting.kind not in HOLDS else self.before_pause
        self.go_on()
        if held:
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
        if not Phase.VERIFY.reached(self.status.phase):
            return f"there is nothing to compare yet in {self.status.phase}"
        later = [errand.message for errand in self.errands if errand.compares][1:]
        waiting = any(isinstance(other, VerifyNow) and other.repair == act.repair for other in later)
        return "the same comparison is waiting already" if waiting else None


def understood(act: str, model: type[BaseModel], raw: object) -> BaseModel:
    """Read a message.

    Raises:
        ApplicationError: of type ActRefused, saying what is wrong with it, but not what it held.
    """
    if isinstance(raw, Unreadable):
        raise refusal(f"{act}: {raw.reason}")
    try:
        return model.model_validate({} if raw is None else raw)
    except ValidationError as error:
        raise refusal(f"{act}: {problems(error, act)}") from None


def refusal(reason: str) -> ApplicationError:
    """Make the error with which an act is refused."""
    return ApplicationError(reason, type="ActRefused", non_retryable=True)


def reason_of(error: ApplicationError) -> str:
    """Give the reason of a refusal in one line, without code and cure where the error has fields of its own."""
    facts = error.details[0] if error.details else None
    return str(facts["message"]) if isinstance(facts, dict) and facts.get("message") else error.message
