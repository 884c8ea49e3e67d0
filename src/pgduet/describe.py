"""A plan in words: one line and a page for the Temporal UI and the CLI, and what differs between two plans. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from pgduet.plan.models import (
    AddColumn,
    AlterColumn,
    CreateConstraint,
    CreateIndex,
    CreateTable,
    DropColumn,
    DropConstraint,
    DropIndex,
    MergeRows,
    Operation,
    Plan,
    RenameColumn,
    RenameConstraint,
    RenameTable,
    ReplaceColumns,
    SetReplicaIdentity,
    Sql,
)
from pgduet.windows import Window

LATELY = 4
IGNORED = "ignored: "
"""Begins what is said of a message that changed nothing, behind the moment."""
_SUMMARY_BYTES = 200
_DETAILS_BYTES = 20_000


def summary(plan: Plan) -> str:
    """Give one line, within Temporal's limit of 200 bytes."""
    return _cut(f"{plan.name}: {plan.database} {plan.version.from_} → {plan.version.to}", _SUMMARY_BYTES)


def details(plan: Plan) -> str:
    """Give a page in Markdown, within Temporal's limit of 20,000 bytes."""
    parts = [
        plan.description,
        "\n".join(f"- {operation_line(operation)}" for operation in plan.operations),
        "\n".join(f"- {role}: {who}" for role, who in plan.owners.items()),
        "\n".join(f"- risk: {each.risk} ({each.mitigation}; {each.owner})" for each in plan.risks),
    ]
    return _cut("\n\n".join(part for part in parts if part), _DETAILS_BYTES)


def limits_told(limits: Mapping[str, Any]) -> list[str]:
    """Say what an operator has set of a backfill's pace: `pause_ms = 50`."""
    return [f"{name} = {_limit(value)}" for name, value in limits.items()]


def _limit(value: Any) -> str:
    if isinstance(value, dict):
        return str(Window.model_validate(value))
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def operation_line(operation: Operation) -> str:
    """Say what an operation does, in one line."""
    what = f"{operation.kind} {_where(operation)}"
    match operation:
        case AddColumn():
            return f"{what}: {operation.column.name} {operation.column.type}"
        case ReplaceColumns():
            return f"{what}: {', '.join(operation.replaces)} → {', '.join(column.name for column in operation.columns)}"
        case AlterColumn():
            changes = ("name", "type", "nullable", "default", "check", "unique", "references", "comment")
            changed = [name for name in changes if getattr(operation, name) is not None]
            return f"{what}: {operation.column} ({', '.join(changed) or 'values'})"
        case RenameColumn(column=name) | RenameConstraint(name=name):
            return f"{what}: {name} → {operation.to}"
        case DropColumn(column=name) | DropConstraint(name=name):
            return f"{what}: {name}"
        case RenameTable():
            return f"{what} → {operation.to}"
        case CreateIndex() | CreateConstraint():
            return f"{what}: {operation.name} {_made(operation)}"
        case SetReplicaIdentity():
            return f"{what}: {operation.identity}" + (f" {operation.index}" if operation.index else "")
        case CreateTable() | MergeRows():
            into = f" → {operation.into}" if isinstance(operation, MergeRows) else ""
            return f"{what}{into}: {', '.join(column.name for column in operation.columns)}"
    return what


def _made(operation: CreateIndex | CreateConstraint) -> str:
    if isinstance(operation, CreateConstraint):
        return f"({': '.join(filter(None, [operation.type, ', '.join(operation.columns)]))})"
    columns = ", ".join(each.column or each.expression or "" for each in operation.columns)
    return f"({columns})" + (", unique" if operation.unique else "")


def plain(relation: str) -> str:
    """Show a quoted name as people say it, where that is the same: `"public"."flights"` is public.flights."""
    bare = relation.replace('"', "")
    return bare if bare == bare.lower() and bare.replace(".", "").replace("_", "").isalnum() else relation


def _where(operation: Operation) -> str:
    if isinstance(operation, Sql):
        return f"at {operation.at}" + (f" on {', '.join(operation.tables)}" if operation.tables else "")
    if isinstance(operation, DropIndex):
        return str(operation.index)
    return str(operation.relation)


def what_differs(running: Plan, given: Plan) -> str:
    """Name the versions and operations that two plans of one name do not share."""
    told = []
    if running.version != given.version:
        was, now = running.version, given.version
        told.append(f"versions {was.from_} → {was.to} there, {now.from_} → {now.to} here")
    if len(running.operations) != len(given.operations):
        told.append(f"{len(running.operations)} operations there, {len(given.operations)} here")
    pairs = enumerate(zip(running.operations, given.operations, strict=False))
    told += [f"operations[{index}] ({now.kind} {_where(now)})" for index, (was, now) in pairs if was != now]
    return "; ".join(told)


def _cut(text: str, limit_bytes: int) -> str:
    data = text.encode()
    if len(data) <= limit_bytes:
        return text
    return data[: limit_bytes - 3].decode(errors="ignore") + "…"


def lately(decisions: Sequence[str]) -> list[str]:
    """Give the last lines of what was decided, by whom and why; messages that changed nothing are left out."""
    return [line for line in decisions if not is_ignored(line)][-LATELY:]


def is_ignored(line: str) -> bool:
    """Tell whether a line of the decisions is about a message that changed nothing."""
    return line[len("2026-01-01 00:00:00 ") :].startswith(IGNORED)
