"""Barriers: named points around every commit, every change of the schema and every flip, at which a test holds or kills a worker.

Without instructions a barrier costs one dictionary look-up. Instructions come from `PGDUET_BARRIERS`, such as
`batch.before_commit=kill@3,flip.after_commit=kill`: kill this process the third time it gets there; or, inside one process,
from `HOOKS`.
"""

import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

NAMES = (
    "expand.before_commit",
    "expand.after_commit",
    "dual_write.before_commit",
    "dual_write.after_commit",
    "batch.before_commit",
    "batch.after_commit",
    "publish.before_commit",
    "publish.after_commit",
    "route.before_commit",
    "route.after_commit",
    "constraint.before_commit",
    "constraint.after_commit",
    "flip.before_commit",
    "flip.after_commit",
    "contract.before_commit",
    "contract.after_commit",
    "undo_shift.before_commit",
    "undo_shift.after_commit",
    "undo_cutover.before_commit",
    "undo_cutover.after_commit",
    "undo_verify.before_commit",
    "undo_verify.after_commit",
    "undo_dual_write.before_commit",
    "undo_dual_write.after_commit",
    "undo_expand.before_commit",
    "undo_expand.after_commit",
)

HOOKS: dict[str, Callable[[], Awaitable[None]]] = {}
"""What to await at a barrier, by name."""

_seen: Counter[str] = Counter()


def _instructions() -> dict[str, int]:
    wanted: dict[str, int] = {}
    for item in filter(None, os.environ.get("PGDUET_BARRIERS", "").split(",")):
        name, _, action = item.partition("=")
        verb, _, count = action.partition("@")
        if name not in NAMES or verb != "kill":
            message = (
                f"PGDUET_BARRIERS: cannot read {item!r}; write NAME=kill or NAME=kill@N with one of {', '.join(NAMES)}"
            )
            raise ValueError(message)
        wanted[name] = int(count or "1")
    return wanted


_KILLS = _instructions()


async def reach(name: str) -> None:
    """Pass a barrier, or be held or killed at it."""
    if name in _KILLS:
        _seen[name] += 1
        if _seen[name] == _KILLS[name]:
            os.kill(os.getpid(), signal.SIGKILL)
    if hook := HOOKS.get(name):
        await hook()
