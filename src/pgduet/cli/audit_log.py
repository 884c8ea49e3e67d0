"""`audit verify`, `audit export`, `audit head`: the log of every act, checked and taken out. They only read."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from pgduet.audit_client import audit_file
from pgduet.audits import AuditVerdict, read_head
from pgduet.cli import options
from pgduet.cli.audit_face import counted, export_page, verdict_page
from pgduet.cli.session import DONE, FAILED, Screen, run
from pgduet.client import Migrations, StillWaiting
from pgduet.errors import PgduetError

app = typer.Typer(
    name="audit",
    help="The tamper-evident log of a database: check it, take it out, keep its head.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Database = Annotated[str, typer.Argument(metavar="DATABASE", help="The database's logical name.", show_default=False)]
MaybeDatabase = Annotated[
    str | None, typer.Argument(metavar="DATABASE", help="The database's logical name.", show_default=False)
]
ExportFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="EXPORT", help="Check this export; without DATABASE no server is needed."),
]
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE", help="A new file; else stdout.")]


def _heads(given: list[str] | None) -> list[str]:
    for head in given or []:
        if read_head(head) is None:
            message = f"`{head}` is not SEQ:HASH, as `pgduet audit head` prints it"
            raise typer.BadParameter(message)
    return given or []


Heads = Annotated[
    list[str] | None,
    typer.Option("--head", metavar="SEQ:HASH", help="A head kept elsewhere; may be repeated.", callback=_heads),
]


@app.command()
def head(database: Database, *, as_json: options.AsJson = False) -> None:
    """Print the last entry's number and hash. Keep it outside: `verify --head` compares."""

    async def job(screen: Screen) -> None:
        found = await (await Migrations.connect()).audit_head(database)
        screen.show(found, {"database": database, "head": found})

    run(job, as_json=as_json)


@app.command()
def verify(
    database: MaybeDatabase = None,
    *,
    file: ExportFile = None,
    heads: Heads = None,
    timeout: options.Timeout = None,
    as_json: options.AsJson = False,
) -> None:
    """Check the whole log, against the heads that migrations have kept in Temporal too. Exit 1 when it is broken.

    With an export as well, the log must go on from where the export ends.
    """
    if database is None and file is None:
        raise typer.BadParameter("give a DATABASE, or an export by --file", param_hint="DATABASE")

    async def job(screen: Screen) -> int:
        known = list(heads or [])
        found = _checked(file, known) if file else None
        if database is not None and (found is None or found.intact):
            if found is not None:
                known.append(found.head)
            migrations = await Migrations.connect()
            async with _within(timeout, f"the audit log of {database} has not been checked"):
                found = await migrations.audit_verify(database, known)
        assert found is not None  # noqa: S101  (one of both was given)
        return _told(screen, found)

    run(job, as_json=as_json)


@app.command()
def export(
    database: Database, *, output: Output = None, timeout: options.Timeout = None, as_json: options.AsJson = False
) -> None:
    """Take the log out as lines of JSON, one entry each. An existing file is never overwritten.

    To stdout go the lines and nothing else; with `--output`, `--json` tells what was written.
    """

    async def job(screen: Screen) -> None:
        migrations = await Migrations.connect()
        with _target(output) as target:
            async with _within(timeout, f"the audit log of {database} has not been exported"):
                entries = await _write(migrations.audit_export(database), target)
        if output is None:
            screen.note(f"{counted(entries)} of the audit log of {database}")
        else:
            facts = {"database": database, "entries": entries, "file": str(output)}
            screen.show(export_page(database, entries, str(output)), facts)

    run(job, as_json=as_json)


def _told(screen: Screen, found: AuditVerdict) -> int:
    """Show a verdict; a broken log is an error with its facts beside it."""
    error = found.error()
    facts = found.model_dump(mode="json") | {"intact": found.intact}
    if error is None:
        screen.show(verdict_page(found), facts)
        return DONE
    if screen.as_json:
        screen.show("", facts | {"error": error.facts()})
    else:
        screen.refuse(error)
    return FAILED


def _checked(file: Path, heads: list[str]) -> AuditVerdict:
    try:
        return audit_file(file, heads)
    except OSError as wrong:
        raise PgduetError(f"{file} cannot be read: {wrong.strerror}") from wrong


async def _write(lines: AsyncIterator[str], target: BinaryIO) -> int:
    entries = 0
    async for line in lines:
        target.write(line.encode() + b"\n")
        entries += 1
    target.flush()
    return entries


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """Open where an export goes; a file appears under its name only when it is whole, and takes nobody's place."""
    if output is None:
        yield sys.stdout.buffer
        return
    _refuse_to_replace(output)
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with partial.open("xb") as target:
            yield target
            os.fsync(target.fileno())
        _refuse_to_replace(output)
        partial.rename(output)
    except OSError as wrong:
        raise PgduetError(f"{output} cannot be written: {wrong.strerror}") from wrong
    finally:
        partial.unlink(missing_ok=True)


def _refuse_to_replace(output: Path) -> None:
    if output.exists():
        raise PgduetError(f"{output} exists", hint="An export is evidence and is not overwritten: name another file.")


@asynccontextmanager
async def _within(limit_s: float | None, late: str) -> AsyncIterator[None]:
    """Give up after a while; without a limit, never."""
    try:
        async with asyncio.timeout(limit_s) as clock:
            yield
    except TimeoutError:
        if not clock.expired():
            raise
        message = f"{late} within {limit_s:g} s"
        raise StillWaiting(message, None) from None
