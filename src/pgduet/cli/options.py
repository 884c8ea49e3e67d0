"""The arguments and options that several commands share, each with its help, and who is acting."""

import getpass
from collections.abc import Callable
from typing import Annotated

import typer

from pgduet.phases import Phase
from pgduet.texts import one_line, some_lines


def _at_most(length: int, plain: Callable[[str], str]) -> Callable[[str | None], str | None]:
    """Refuse a text that no message takes."""

    def check(text: str | None) -> str | None:
        if text and len(text) > length:
            message = f"at most {length:,} characters"
            raise typer.BadParameter(message)
        try:
            return plain(text.strip()) if text else text
        except ValueError as wrong:
            raise typer.BadParameter(str(wrong)) from None

    return check


Name = Annotated[str, typer.Argument(metavar="NAME", help="The migration's name.", show_default=False)]
PlanFile = Annotated[str, typer.Argument(metavar="PLAN", help="The plan file, YAML or JSON.", show_default=False)]
PolicyFile = Annotated[str | None, typer.Option("--policy", metavar="FILE", help="Lay this policy over the plan's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Database = Annotated[
    str | None,
    typer.Option("--database", metavar="DB", help="The migration's database, where several have the name."),
]
Actor = Annotated[
    str,
    typer.Option(
        "--actor", help="Who acts; it is recorded.", show_default="the OS user", callback=_at_most(200, one_line)
    ),
]
Reason = Annotated[
    str | None, typer.Option("--reason", help="Why; it is recorded.", callback=_at_most(2000, some_lines))
]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="S", min=0, help="Give up after S seconds.")]
PhaseName = Annotated[Phase, typer.Option("--phase", help="Return once it is entered or passed.", show_default=False)]


def os_user() -> str:
    """Name the OS user; an account without a name is `unknown`."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
