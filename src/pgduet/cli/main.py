"""The `pgduet` command: which commands there are, in the order of a migration's life."""

import sys
from importlib import metadata
from typing import Annotated

import typer

from pgduet.cli import acts, audit_log, looking, plans, reporting, servers, undoing
from pgduet.cli.session import CONNECTED
from pgduet.leaving import leave

app = typer.Typer(
    name="pgduet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  (Typer gives it by position)
    if wanted:
        typer.echo(f"pgduet {metadata.version('pgduet')}")
        raise typer.Exit


@app.callback()
def _everywhere(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Zero-downtime PostgreSQL migrations: old and new clients side by side, one command back."""


for _command in (
    plans.setup,
    plans.check,
    plans.start,
    looking.status,
    looking.wait,
    acts.approve,
    acts.advance,
    acts.pause,
    acts.resume,
    acts.throttle,
    acts.route,
    undoing.rollback,
    undoing.verify,
    reporting.report,
    plans.schema,
    servers.worker,
    servers.dev,
    servers.demo,
):
    app.command()(_command)
app.add_typer(audit_log.app)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign gets a question mark, not a traceback.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    try:
        app()
    except SystemExit as done:
        if not CONNECTED.is_set():
            raise
        leave(done.code if isinstance(done.code, int) else 1)


if __name__ == "__main__":
    main()
