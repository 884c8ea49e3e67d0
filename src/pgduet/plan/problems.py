"""How the models say no: a `Problem` with a relative path, carried through pydantic inside a custom error.

pydantic collects the errors of independent fields but lets one validator raise only once; `refuse` therefore takes
several problems at a time. `explain` turns them into pgduet's errors, with file, line and column where these are
known.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import NoReturn

from pydantic_core import PydanticCustomError

from pgduet.errors import PlanInvalid

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top of the plan, as the file has them."""

PROBLEM = "pgduet_problem"
"""The pydantic error type that carries problems in its context."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `at` is relative to the validated value, `elsewhere` counts from the top of the plan."""

    message: str
    at: KeyPath = ()
    error: type[PlanInvalid] = PlanInvalid
    hint: str | None = None
    on_key: bool = False
    elsewhere: KeyPath | None = None


def refuse(*problems: Problem) -> NoReturn:
    """Raise the problems as one pydantic error."""
    text = "; ".join(problem.message for problem in problems)
    raise PydanticCustomError(PROBLEM, "{text}", {"text": text, "problems": problems})


def show_path(path: KeyPath) -> str:
    """Render a path as people write it: `operations[0].add_column.column.name`."""
    shown = ""
    for part in path:
        shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else part
    return shown or "plan"


def did_you_mean(word: str, known: list[str]) -> str:
    """Give `. Did you mean …?` for the nearest known word, or nothing."""
    near = get_close_matches(word[:100], known, n=1)
    return f". Did you mean `{near[0]}`?" if near else ""


def listed(words: list[str]) -> str:
    """Render words for a message: `a`, `b`, `c`."""
    return ", ".join(f"`{word}`" for word in words)
