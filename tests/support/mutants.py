"""Mutants: the mechanism with one clause taken out, to know that a scenario sees the fault which that clause prevents.

A mutant is a value, applied around a scenario whose worker runs in this process. There are three: a `Clause` of a named `.sql`
block, a piece of a function's source (`Code`), an `Attribute` of a module or a class. Each is a text or a value that must be
there: what has been rewritten since raises `NoSuchClause`, so that no mutant outlives what it mutates.

Limits: a worker in a process of its own is not touched, nor is a block that a module has read when it was imported, nor workflow
code in Temporal's sandbox, which reads its source anew (those raise). What is installed in the database stays as it was rendered.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Protocol

import psycopg
import pytest

from pgduet.sql import load

_ABSENT = object()
_SANDBOXED = "pgduet.workflows"


class NoSuchClause(Exception):
    """A mutant does not find what it takes out, or finds it more than once."""


class Mutant(Protocol):
    """The mechanism without something."""

    @property
    def name(self) -> str:
        """What is taken out, in words."""

    def applied(self) -> AbstractContextManager[None]:
        """Take it out until the block ends."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A named `.sql` block without a clause, or with another one in its place."""

    name: str
    file: str
    block: str
    clause: str
    instead: str = ""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Change the block as it was loaded: whatever is rendered from it from here on lacks the clause."""
        blocks = load(self.file)
        if self.block not in blocks:
            raise NoSuchClause(f"{self.name}: {self.file}.sql has no block {self.block}")
        original = blocks[self.block]
        blocks[self.block] = _replaced(self.name, original, self.clause, self.instead)
        try:
            yield
        finally:
            blocks[self.block] = original


@dataclass(frozen=True, slots=True)
class Code:
    """A function or method with a piece of its source replaced; all who hold the function get the change."""

    name: str
    function: Callable[..., Any]
    clause: str
    instead: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Compile the changed source into the function."""
        function = inspect.unwrap(self.function)
        if not isinstance(function, FunctionType) or function.__module__.startswith(_SANDBOXED):
            raise NoSuchClause(f"{self.name}: {self.function!r} is no function that can be changed from here")
        original = function.__code__
        source = _replaced(self.name, textwrap.dedent(inspect.getsource(function)), self.clause, self.instead)
        function.__code__ = _compiled(source, function)
        try:
            yield
        finally:
            function.__code__ = original


@dataclass(frozen=True, slots=True)
class Attribute:
    """A module or class with another value in place of one that it has."""

    name: str
    owner: object
    attribute: str
    instead: Any

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the other value."""
        original = vars(self.owner).get(self.attribute, _ABSENT)
        if original is _ABSENT:
            raise NoSuchClause(f"{self.name}: {self.owner!r} has no {self.attribute} of its own")
        if original == self.instead:
            raise NoSuchClause(f"{self.name}: {self.attribute} is {original!r} anyway")
        setattr(self.owner, self.attribute, self.instead)
        try:
            yield
        finally:
            setattr(self.owner, self.attribute, original)


PROBE_LOOKS = Clause("dual_write's probe looks at its row", "probes", "forward", "NOT {needs} AS good", "true AS good")
"""Taken out together with a clause of the sync: the probe would notice that that is missing, and the migration not get on."""
WAY_BACK_LOOKS = Clause(
    "publication's probe looks at its row", "probes", "reverse", "NOT {inconsistent} AS good", "true AS good"
)
"""As `PROBE_LOOKS`, where the clause is needed for a new client's write."""


async def must_fail(scenario: Coroutine[Any, Any, object], *mutants: Mutant, says: str) -> None:
    """Run a scenario against mutants, and require that it fails by its own word.

    `says` is what the first line of that word contains: of the message of an `assert`, or of the client's error that the scenario
    forbids. Whatever else ends it is an accident, a condition that was not reached in time included.

    Raises:
        NoSuchClause: a mutant is out of date.
    """
    names = " and ".join(mutant.name for mutant in mutants)
    assert names, "nothing is taken out"
    assert says, "a scenario that may fail by anything proves nothing"
    with ExitStack() as applied:
        try:
            for mutant in mutants:
                applied.enter_context(mutant.applied())
        except BaseException:
            scenario.close()
            raise
        try:
            await scenario
        except Exception as error:
            ends = list(_leaves(error))
            told = [end for end in ends if isinstance(end, AssertionError | psycopg.Error) and says in _first_line(end)]
            if not told:
                shown = "; ".join(f"{type(end).__name__}: {_first_line(end)}" for end in ends)
                raise AssertionError(f"without {names} the scenario ended by accident: {shown}") from error
            return
    pytest.fail(f"the scenario does not see that this is missing: {names}")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Take groups of errors apart."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _replaced(name: str, text: str, clause: str, instead: str) -> str:
    found = text.count(clause)
    if found != 1 or clause == instead:
        raise NoSuchClause(f"{name}: expected once, found {found} times:\n{clause}\nin:\n{text}")
    return text.replace(clause, instead)


def _compiled(source: str, function: FunctionType) -> CodeType:
    """Compile a definition without its decorators; tracebacks show the lines of the original."""
    tree = ast.parse(source)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
    definition.decorator_list = []
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    module = compile(tree, function.__code__.co_filename, "exec", dont_inherit=True)
    return next(
        found for found in module.co_consts if isinstance(found, CodeType) and found.co_name == function.__name__
    )
