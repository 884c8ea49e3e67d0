"""How to say otherwise what a new shape cannot be given in the same plan: the operation to write, and in which plan."""

from collections.abc import Sequence
from typing import Any

import yaml

from pgduet.plan.column_operations import AddColumn, AlterColumn, DropColumn, RenameColumn, ReplaceColumns
from pgduet.plan.columns import Check, NewColumn, References, Unique
from pgduet.plan.names import TableName
from pgduet.plan.policy import Part

_LATER = "in a plan of its own, once this one has reached contract"
_WIDTH = 10_000


def constraint(table: TableName, column: str, bound: Check | Unique | References) -> str:
    """Render a column's constraint as `create_constraint`."""
    given: dict[str, Any] = {"table": str(table)}
    match bound:
        case Check():
            given |= {"name": bound.name or f"{table.name}_{column}_check", "type": "check"}
            given["check"] = bound.expression
        case Unique():
            given |= {"name": bound.name or f"{table.name}_{column}_key", "type": "unique"}
            given["columns"] = [column]
        case References():
            given |= {"name": bound.name or f"{table.name}_{column}_fkey", "type": "foreign_key"}
            given |= {"columns": [column], "references": _references(bound)}
    return f"Write it {_LATER}: `{_flow({'create_constraint': given})}`."


def constraint_of_parted(table: TableName, column: str, bound: Check | Unique | References) -> str:
    """Render the same for a table that is partitioned then: what `create_constraint` is not for, `alter_column` may bring."""
    given: dict[str, Any] = {"table": str(table), "column": column}
    match bound:
        case Unique():
            return f"Leave it out: PostgreSQL keeps `{column}` unique within each partition only, unless it spreads the rows."
        case Check():
            given["check"] = bound.expression if bound.name is None else _plain(bound)
        case References():
            given["references"] = _plain(bound)
    since = " (from PostgreSQL 18 on)" if isinstance(bound, References) else ""
    return f"Write it {_LATER}{since}: `{_flow({'alter_column': given})}`."


def _references(bound: References) -> dict[str, Any]:
    given: dict[str, Any] = {"table": bound.table}
    if bound.column is not None:
        given["columns"] = [bound.column]
    actions = {"on_delete": bound.on_delete, "on_update": bound.on_update}
    return given | {key: action for key, action in actions.items() if action != "no action"}


def ordinary(table: TableName, key: Sequence[str]) -> str:
    """Render the operation that makes a partitioned table an ordinary one, with the same key."""
    given = {"shadow_table": {"table": str(table), "primary_key": list(key)}}
    return f"Make it an ordinary one first, in a plan that has reached contract: `{_flow(given)}`."


def beside(shape: str, kind: str, other: Part) -> str:
    """Say where a change goes that stands beside an operation which gives the same table another shape."""
    if shape == kind == "shadow_table":
        return "Put both into one `shadow_table`: its `columns`, `replaces`, `order` and `partition_by` are one shape."
    if merged := {"merge_rows"} & {shape, kind}:
        before = kind if shape in merged else shape
        return (
            f"Write `{before}` first, in a plan that has reached contract, and then `merge_rows`: at its contract the rows as they"
            " are go to the archive."
        )
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


def _plain(part: NewColumn | Check | References) -> dict[str, Any]:
    return part.model_dump(exclude_defaults=True)


def _flow(value: dict[str, Any]) -> str:
    """Render on one line, as it can stand in a plan."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return text.strip().removeprefix("{").removesuffix("}")
