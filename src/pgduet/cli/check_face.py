"""The page of `pgduet check`: what the plan does, its hazards, its estimate. Pure.

Hazards and estimates are shown by their fields; a field that is not known here is shown under its own name.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pgduet.cli.words import short, span
from pgduet.describe import operation_line
from pgduet.messages import CheckResult
from pgduet.plan.models import Plan


def check_page(plan: Plan, checksum: str, live: CheckResult | None, file: str = "PLAN") -> RenderableType:
    """Render a checked plan; without `live`, only what the file itself tells. `file` is for the commands that come next."""
    parts: list[RenderableType] = [_headline(plan, checksum, live)]
    parts += [Text(f"  {operation_line(operation)}") for operation in plan.operations]
    if live and live.hazards:
        parts += ["", _hazards(live.hazards)]
    if live and live.estimate:
        parts += ["", Padding(Text(f"estimate   {estimate_line(live.estimate)}"), (0, 0, 0, 2))]
    file = shlex.quote(file)
    first = "" if live else f"   (or first: pgduet check {file} --database, for the catalogue)"
    return Group(*parts, "", Text(f"next  pgduet start {file}{first}"))


def estimate_line(estimate: Mapping[str, Any]) -> str:
    """Render an estimate; a number's unit is the last word of its name."""
    return " · ".join(f"{_named(name)} {_amount(name, value)}" for name, value in estimate.items() if value is not None)


def _headline(plan: Plan, checksum: str, live: CheckResult | None) -> Text:
    told = "by the file alone"
    if live and live.standing:
        told = f"its migration is {live.standing}"
    elif live:
        # What would block is an error, not a hazard: it never gets as far as this page.
        count = f"{len(live.hazards)} hazard{'' if len(live.hazards) == 1 else 's'}"
        told = f"{count}, none blocking" if live.hazards else "no hazards"
    shown = Text("plan ok", style="bold green")
    versions = f"{plan.database} {plan.version.from_} → {plan.version.to}"
    return shown.append(f", {told}   {versions}   checksum {checksum[:12]}…", style="not bold default")


def _hazards(hazards: list[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=9)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", style="dim")
    for hazard in hazards:
        word = Text("  hazard", style="yellow")
        effect = f"{hazard['condition']}: {hazard['effect']}"
        cure = str(hazard["cure"])
        where = f" ({hazard['where']})" if hazard.get("where") else ""
        table.add_row(word, Text(str(hazard["id"])), Text(effect + where), Text(cure))
    return table


def _named(name: str) -> str:
    return name.removesuffix("_s").removesuffix("_ms").removesuffix("_bytes").removesuffix("_mb").replace("_", " ")


def _amount(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if name.endswith("_ms"):
        return f"{value:g} ms"
    if name.endswith("_s"):
        return span(value) if value >= 1 else "under 1 s"
    if name.endswith("_bytes"):
        return f"{value / 1e6:,.0f} MB"
    if name.endswith("_mb"):
        return f"{value:,.0f} MB"
    return short(value)
