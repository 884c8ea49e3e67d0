"""One command's run: the connection, what is printed where, and the exit code.

Pages go to stdout and errors to stderr; under `--json` one object goes to stdout, errors included. Exit codes: 0 done,
1 refused or failed, 2 usage, 3 timed out, 130 interrupted. Limits: wrong usage is found before a command runs, so that
it is told as text even under `--json`.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from threading import Event
from typing import Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console, RenderableType
from rich.text import Text
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError

from pgduet.cli.error_face import error_text
from pgduet.cli.faces import WIDTH, one_line
from pgduet.client import StillWaiting
from pgduet.errors import PgduetError, ServerMissing
from pgduet.messages import Status
from pgduet.telemetry import environment
from pgduet.telemetry.spans import root_span

CONNECTED = Event()
"""Set once a command has used Temporal's client, whose threads must not outlive the interpreter (see `main`)."""
DONE, FAILED, TIMED_OUT, INTERRUPTED = 0, 1, 3, 130


def console(*, stderr: bool = False) -> Console:
    """Make a console of at most 100 columns that takes text as it is; without a terminal it is plain."""
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    made.width = min(made.width, WIDTH) if made.is_terminal else WIDTH
    return made


@dataclass(slots=True)
class Screen:
    """Where a command shows what it found: a page for people, or the same facts as JSON."""

    as_json: bool
    followed: str = ""

    def show(self, page: RenderableType, facts: Mapping[str, Any]) -> None:
        """Show the result; once in a command's run."""
        if self.as_json:
            typer.echo(json.dumps(facts, ensure_ascii=False, default=str))
        else:
            # A text is as long as it is: SQL that is wrapped in a comment would not run.
            console().print(page, soft_wrap=isinstance(page, Text))

    def note(self, text: str) -> None:
        """Say something beside the result, on stderr."""
        if not self.as_json:
            console(stderr=True).print(text, soft_wrap=True)

    def follow(self, status: Status) -> None:
        """Say where a migration is that is waited for, whenever it has moved."""
        line = one_line(status)
        place = f"{status.phase} {status.state} {status.waiting_for.kind if status.waiting_for else ''}"
        if place != self.followed:
            self.followed = place
            self.note(line)

    def refuse(self, error: PgduetError) -> None:
        """Show an error."""
        if self.as_json:
            self.show("", {"error": error.facts()})
        else:
            console(stderr=True).print(error_text(error), soft_wrap=True)

    def late(self, error: StillWaiting) -> None:
        """Show that the time was over, and where the migration stands."""
        if self.as_json:
            facts = PgduetError(str(error)).facts() | {"code": "timeout"}
            status = error.status.model_dump(mode="json") if error.status else None
            self.show("", {"error": facts, "status": status})
        else:
            console(stderr=True).print(f"timed out  {error}", soft_wrap=True)


def run(job: Callable[[Screen], Awaitable[int | None]], *, as_json: bool) -> NoReturn:
    """Run a command to its exit code."""
    raise typer.Exit(_code(job, Screen(as_json)))


def _code(job: Callable[[Screen], Awaitable[int | None]], screen: Screen) -> int:
    async def main() -> int:
        return await job(screen) or DONE

    CONNECTED.set()
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=None)), error_if_already_set=False)
    try:
        with _traced():
            return asyncio.run(main())
    except StillWaiting as late:
        screen.late(late)
        return TIMED_OUT
    except PgduetError as error:
        screen.refuse(error)
    except RPCError as wrong:
        message = f"the Temporal server answers: {wrong.message}"
        screen.refuse(ServerMissing(message))
    except ValidationError as wrong:
        message = f"the worker's answer cannot be read: {wrong.error_count()} fields of {wrong.title} differ"
        screen.refuse(PgduetError(message, hint="Are the worker and this command of the same version of pgduet?"))
    except KeyboardInterrupt:
        screen.note("interrupted: what runs goes on")
        return INTERRUPTED
    return FAILED


@contextmanager
def _traced() -> Iterator[None]:
    """Begin the trace of a command, and send it off before the process ends: it ends without finalizing (see `main`)."""
    if not environment.wanted("traces"):
        yield
        return
    # OpenTelemetry's SDK takes a tenth of a second to load: only who wants traces waits for it.
    started = import_module("pgduet.telemetry.providers").start("pgduet-cli", only_traces=True)
    # A collector that does not answer is no business of a command's.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    try:
        with root_span(" ".join(["pgduet", *sys.argv[1:2]])):
            yield
    finally:
        started.stop()
