"""The arguments and options that several commands share, each with its help, and who is acting."""

import getpass
from typing import Annotated

import typer

from pgduet.phases import Phase

Name = Annotated[str, typer.Argument(metavar="NAME", help="The migration's name.", show_default=False)]
PlanFile = Annotated[str, typer.Argument(metavar="PLAN", help="The plan file, YAML or JSON.", show_default=False)]
PolicyFile = Annotated[str | None, typer.Option("--policy", metavar="FILE", help="Lay this policy over the plan's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Database = Annotated[
    str | None,
    typer.Option("--database", metavar="DB", help="The migration's database, where several have the name."),
]
Actor = Annotated[str, typer.Option("--actor", help="Who acts; the audit log records it.", show_default="the OS user")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why; the audit log records it.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="S", min=0, help="Give up after S seconds: exit 3.")
]
PhaseName = Annotated[Phase, typer.Option("--phase", help="Return once it is entered or passed.", show_default=False)]


def os_user() -> str:
    """Name the OS user; an account without a name is `unknown`."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
