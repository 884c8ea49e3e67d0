"""How to say otherwise what a new shape cannot be given in the same plan: the operation to write, and in which plan."""

from typing import Any

import yaml

from pgduet.plan.column_operations import AddColumn, AlterColumn, DropColumn, RenameColumn, ReplaceColumns
from pgduet.plan.columns import Check, NewColumn, References, Unique
from pgduet.plan.names import TableName
from pgduet.plan.policy import Part

_LATER = "in a plan of its own, once this one has reached contract"
_WIDTH = 10_000


def constraint(table: TableName, column: NewColumn, bound: Check | Unique | References) -> str:
    """Render a column's constraint as `create_constraint`."""
    given: dict[str, Any] = {"table": str(table)}
    match bound:
        case Check():
            given |= {"name": bound.name or f"{table.name}_{column.name}_check", "type": "check"}
            given["check"] = bound.expression
        case Unique():
            given |= {"name": bound.name or f"{table.name}_{column.name}_key", "type": "unique"}
            given["columns"] = [column.name]
        case References():
            given |= {"name": bound.name or f"{table.name}_{column.name}_fkey", "type": "foreign_key"}
            given |= {"columns": [column.name], "references": _references(bound)}
    return f"Write it {_LATER}: `{_flow({'create_constraint': given})}`."


def _references(bound: References) -> dict[str, Any]:
    given: dict[str, Any] = {"table": bound.table}
    if bound.column is not None:
        given["columns"] = [bound.column]
    actions = {"on_delete": bound.on_delete, "on_update": bound.on_update}
    return given | {key: action for key, action in actions.items() if action != "no action"}


def beside(shape: str, kind: str, other: Part) -> str:
    """Say where a change goes that stands beside an operation which gives the same table another shape."""
    if shape == kind == "shadow_table":
        return "Put both into one `shadow_table`: its `columns`, `replaces`, `order` and `partition_by` are one shape."
    own = f"Write `{kind}` {_LATER}; or before, in one that has reached it."
    if shape != "shadow_table":
        return own
    match other:
        case AddColumn():
            return f"Put it into `shadow_table`: `{_flow({'columns': [_plain(other.column)]})}`."
        case RenameColumn():
            renamed = {"name": other.to, "type": "…", "up": other.column}
            keys = {"columns": [renamed], "replaces": [other.column], "down": {other.column: other.to}}
            return f"Put it into `shadow_table`: `{_flow(keys)}`."
        case DropColumn():
            keys = {"replaces": [other.column], "down": {other.column: other.down or "…"}}
            return f"Put it into `shadow_table`: `{_flow(keys)}`."
        case AlterColumn() | ReplaceColumns():
            return "Put it into `shadow_table`: its `columns`, `replaces` and `down` mean the same there."
    return own


def _plain(column: NewColumn) -> dict[str, Any]:
    return column.model_dump(exclude_defaults=True)


def _flow(value: dict[str, Any]) -> str:
    """Render on one line, as it can stand in a plan."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return text.strip().removeprefix("{").removesuffix("}")
