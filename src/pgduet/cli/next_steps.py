"""Which commands move a migration on, and what each is for. Pure.

What the workflow itself offers comes first; to it is added what the phase always allows.
"""

from pgduet.messages import Status
from pgduet.phases import Phase, State

_NOTES = {
    "advance": "go on now",
    "approve": "add your approval",
    "pause": "hold it where it is",
    "resume": "go on",
    "throttle": "change the pace",
    "route": "set the share of reads on the new version",
    "rollback": "put everything back",
    "verify": "compare all rows now, and name the keys that differ",
    "start": "start it again, from where it stands",
    "wait": "wait for the end",
    "status": "look again",
    "worker": "start a worker",
    "check": "check the plan again",
}


def next_commands(status: Status, database: str | None = None) -> list[tuple[str, str]]:
    """Give commands, each with what it is for; at least one. Whoever had to say which `database` has to say it again."""
    if database is None:
        return _commands(status)
    of, where = f" {status.name}", f" --database {database}"
    return [(command + where if of in command else command, note) for command, note in _commands(status)]


def _commands(status: Status) -> list[tuple[str, str]]:
    offered = status.waiting_for.next_commands if status.waiting_for else []
    told = [_with_note(command) for command in offered]
    verbs = {_verb(command) for command, _ in told}
    return told + [_with_note(command) for command in _usual(status) if _verb(command) not in verbs]


def _usual(status: Status) -> list[str]:
    name = status.name
    match status.state:
        case State.FAILED if status.phase in {Phase.CONTRACT, Phase.DONE}:
            return ["pgduet start PLAN"]
        case State.FAILED if status.phase is Phase.PREFLIGHT:
            return ["pgduet check PLAN --database", "pgduet start PLAN  # start it again"]
        case State.FAILED:
            return ["pgduet start PLAN", *_way_back(status)]
        case State.DONE:
            return ["pgduet status  # all migrations"]
        case State.ROLLED_BACK:
            return ["pgduet start PLAN  # start it again, edited or not"]
        case State.ROLLING_BACK:
            return [f"pgduet wait {name} --phase rolled_back"]
    return [*_cure(status), *_while_live(status), *_way_back(status)]


def _cure(status: Status) -> list[str]:
    differ = status.parity is not None and status.parity.mismatches > 0
    return [f"pgduet verify {status.name} --repair  # give rows that differ what the authority says"] if differ else []


def _while_live(status: Status) -> list[str]:
    name = status.name
    if status.state is State.PAUSED:
        return [f"pgduet resume {name}"]
    if status.phase is Phase.BACKFILL:
        return [*_pace(status), f"pgduet status {name} --watch  # follow it"]
    opens = status.comparison is not None and status.comparison.kind == "window"
    window = [f"pgduet throttle {name} --window none  # have it compare now"] if opens else []
    if status.state is State.RUNNING:
        return [*window, f"pgduet status {name} --watch  # follow it"]
    return window


def stands(status: Status) -> bool:
    """Tell whether a backfill that nobody paused stands still."""
    return status.phase is Phase.BACKFILL and status.state is State.RUNNING and status.backfill.holds


def compares_now(status: Status) -> bool:
    """Tell whether the migration itself waits for a comparison that something holds."""
    held = status.comparison is not None and not status.comparison.rate
    return held and status.waiting_for is None and status.state is State.RUNNING


def _pace(status: Status) -> list[str]:
    """Give what changes the pace: for one that stands still what lets it go on, where a limit does that."""
    kind = status.backfill.throttle.kind if status.backfill.throttle else None
    if not stands(status):
        return [f"pgduet throttle {status.name} --pause-ms 50  # slow down"]
    if kind == "window":
        return [f"pgduet throttle {status.name} --window none  # go on now"]
    if kind in {"replica_lag", "wal_retained"}:
        return [f"pgduet throttle {status.name} --help  # limits that can be raised"]
    return []


def _way_back(status: Status) -> list[str]:
    one_way = Phase.CONTRACT.reached(status.phase) or status.no_way_back is not None
    return [] if one_way else [f"pgduet rollback {status.name}"]


def _with_note(command: str) -> tuple[str, str]:
    text, _, note = command.partition("#")
    past = _verb(command) == "advance" and "--force" in text
    return text.strip(), note.strip() or ("go past clients that are left" if past else _NOTES.get(_verb(command), ""))


def _verb(command: str) -> str:
    words = command.removeprefix("pgduet").split()
    return words[0] if words else ""
