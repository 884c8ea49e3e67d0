"""Barriers: named points around every commit, every change of the schema and every flip, at which a test holds or kills a worker.

Without instructions a barrier costs one dictionary look-up. Instructions come from `PGDUET_BARRIERS`, such as
`batch.before_commit=kill@3,flip.after_commit=kill`: kill this process the third time it gets there; or, inside one process,
from `HOOKS`. `stop` instead of `kill` stops it (SIGSTOP), to come back by SIGCONT as from a machine's sleep. Its last words on
standard error say which barrier it was, so that many can be set at once.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

NAMES = (
    "open.before_commit",
    "open.after_commit",
    "expand.before_commit",
    "expand.after_commit",
    "index.before_commit",
    "index.after_commit",
    "dual_write.before_commit",
    "dual_write.after_commit",
    "batch.before_commit",
    "batch.after_commit",
    "secure.before_commit",
    "secure.after_commit",
    "partitions.before_commit",
    "partitions.after_commit",
    "partitions.after_journal",
    "emptied.before_commit",
    "emptied.after_commit",
    "publish.before_commit",
    "publish.after_commit",
    "schedule.after_change",
    "route.before_commit",
    "route.after_commit",
    "constraint.before_commit",
    "constraint.after_commit",
    "flip.before_commit",
    "flip.after_commit",
    "begin_contract.before_commit",
    "begin_contract.after_commit",
    "contract.before_commit",
    "contract.after_commit",
    "claim.before_commit",
    "claim.after_commit",
    "undo_shift.before_commit",
    "undo_shift.after_commit",
    "undo_cutover.before_commit",
    "undo_cutover.after_commit",
    "swap_back.before_commit",
    "swap_back.after_commit",
    "undo_verify.before_commit",
    "undo_verify.after_commit",
    "undo_verify.after_save",
    "undo_dual_write.before_commit",
    "undo_dual_write.after_commit",
    "undo_expand.before_commit",
    "undo_expand.after_commit",
    "record.before_commit",
    "record.after_commit",
    "note.before_commit",
    "note.after_commit",
)

LAST_WORDS = "ends at barrier "

HOOKS: dict[str, Callable[[], Awaitable[None]]] = {}
"""What to await at a barrier, by name."""

_seen: Counter[str] = Counter()
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def _instructions() -> dict[str, tuple[int, signal.Signals]]:
    wanted: dict[str, tuple[int, signal.Signals]] = {}
    for item in filter(None, os.environ.get("PGDUET_BARRIERS", "").split(",")):
        name, _, action = item.partition("=")
        verb, _, count = action.partition("@")
        if name not in NAMES or verb not in _SIGNALS:
            message = (
                f"PGDUET_BARRIERS: cannot read {item!r}; write NAME=kill, NAME=stop or NAME=kill@N with one of"
                f" {', '.join(NAMES)}"
            )
            raise ValueError(message)
        wanted[name] = int(count or "1"), _SIGNALS[verb]
    return wanted


_WANTED = _instructions()


async def reach(name: str) -> None:
    """Pass a barrier, or be held, stopped or killed at it."""
    if name in _WANTED:
        _seen[name] += 1
        count, number = _WANTED[name]
        if _seen[name] == count:
            print(LAST_WORDS + name, file=sys.stderr, flush=True)  # noqa: T201  (nobody else can say it)
            os.kill(os.getpid(), number)
    if hook := HOOKS.get(name):
        await hook()
