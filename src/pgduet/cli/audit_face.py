"""The pages of `pgduet audit`: a log that verifies, an export that was written. Pure. A broken log is shown as an error."""

from rich.console import Group, RenderableType
from rich.text import Text

from pgduet.audits import AuditVerdict
from pgduet.cli.words import times


def counted(entries: int) -> str:
    """Render a number of entries."""
    return f"{entries:,} {'entry' if entries == 1 else 'entries'}"


def verdict_page(found: AuditVerdict) -> RenderableType:
    """Render a log that verifies: what was compared, and how far anything outside the database vouches for it."""
    answer = Text("verifies", style="bold green").append(
        f"  audit log of {found.source}, {counted(found.entries)}", style="not bold default"
    )
    return Group(
        answer, Text(f"  head     {found.head}"), *(Text(f"  {line}") for line in _vouched(found)), *_next(found)
    )


def export_page(database: str, entries: int, file: str) -> RenderableType:
    """Render an export that was written."""
    return Group(
        Text(f"{counted(entries)} of the audit log of {database} written to {file}"),
        "",
        Text(f"next  pgduet audit verify --file {file}"),
        Text(f"      pgduet audit verify {database} --file {file}   later: does the log go on from it?"),
    )


def _vouched(found: AuditVerdict) -> list[str]:
    compared = []
    if found.anchors:
        compared.append(f"{times(found.anchors, 'head')} of {times(found.migrations, 'migration')} in Temporal")
    if found.heads:
        compared.append(f"{times(found.heads, 'head')} that you kept")
    if not compared:
        return ["anchors  none: nothing outside vouches for it, a log written anew would not be noticed"]
    after = found.entries - found.anchored_to
    only = f"; the {counted(after)} after it have only the head row" if after else ""
    agree = "agrees" if found.anchors + found.heads == 1 else "agree"
    return [f"anchors  {' and '.join(compared)} {agree}", f"         anchored up to entry {found.anchored_to:,}{only}"]


def _next(found: AuditVerdict) -> list[RenderableType]:
    if not found.entries:
        return []
    return ["", Text("next  keep this head elsewhere, and give it to a later check: --head SEQ:HASH")]
