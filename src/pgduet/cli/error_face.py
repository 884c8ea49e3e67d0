"""How a refusal looks: `refused  PD-1042  plan.yaml:14:13  …`, the spot, the reason, the cure. Pure.

The same facts go out under `--json` as `{"error": {…}}`.
"""

from rich.text import Text

from pgduet.errors import (
    ActRefused,
    GateRefused,
    PgduetError,
    PlanInvalid,
    UnknownDatabase,
    UnknownMigration,
)
from pgduet.plan.load import PlanErrors

_REFUSALS = (PlanInvalid, ActRefused, GateRefused, UnknownMigration, UnknownDatabase)
_UNTOUCHED = (PlanInvalid, ActRefused, UnknownMigration, UnknownDatabase)


def error_text(error: PgduetError) -> Text:
    """Render an error, or each of several errors of a plan."""
    each = error.errors if isinstance(error, PlanErrors) else [error]
    return Text("\n\n").join(_one(one, last=one is each[-1]) for one in each)


def _one(error: PgduetError, *, last: bool) -> Text:
    word = "refused" if isinstance(error, _REFUSALS) else "failed"
    head, _, body = error.render().partition("\n")
    shown = Text(word, style="bold red").append(f"  {head}\n", style="not bold default").append(body, style="default")
    if last:
        untouched = "Nothing was changed. " if isinstance(error, _UNTOUCHED) else ""
        shown.append(f"\n  {untouched}See docs: reference/errors#{error.code.lower()}", style="dim")
    return shown
