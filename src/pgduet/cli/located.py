"""Finding a worker's error in the plan file: the worker knows the path of a key, only this side has the file.

Where the error shows a text with a caret, the place is that of the caret, as far as the value stands on one line.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pgduet.errors import PgduetError, PlanInvalid
from pgduet.plan.caret import place_of
from pgduet.plan.load import Located, PlanErrors
from pgduet.plan.problems import KeyPath

_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def key_path(shown: str) -> KeyPath:
    """Read a path back: `operations[0].add_column.column` gives its keys and positions."""
    return tuple(int(step[1]) if step[1] else step[2] for step in _STEP.finditer(shown))


@contextmanager
def errors_located(plan: Located) -> Iterator[None]:
    """Give errors of the plan that are raised inside their file, line and column."""
    try:
        yield
    except PgduetError as error:
        locate(error, plan)
        raise error from None


def locate(error: PgduetError, plan: Located) -> None:
    """Set the place of an error, and of each error in it, where only its path is known."""
    for one in error.errors if isinstance(error, PlanErrors) else [error]:
        place = one.place
        if place is None or place.file is not None or not isinstance(one, PlanInvalid):
            continue
        found, _ = place_of(plan, key_path(place.path), _caret(one.snippet))
        one.place = replace(found, path=place.path)


def _caret(snippet: str | None) -> int:
    lines = (snippet or "").splitlines()
    return max(0, lines[1].find("^")) if len(lines) == 2 else 0
