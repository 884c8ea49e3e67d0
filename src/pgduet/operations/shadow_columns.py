"""What somebody has changed of an anchor's columns since preflight: what contract takes over, or does not get past (ADR 28).

Of a column that stays as it is, defaults, NOT NULL, comments and how it is stored are taken over as they are in the end, unless the
plan says them itself. A column that has come would go with the old table, and one that is gone or of another type is not the one
that was mapped: that is for people to decide, while there is a way back.
Limits: after a swap it is the shadow that has the table's name, and so what somebody changes by that name is there already.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from psycopg import sql

from pgduet.errors import ColumnsChanged
from pgduet.operations.alter_column import carried_default
from pgduet.operations.expressions import Frozen
from pgduet.operations.facts import ColumnFacts
from pgduet.operations.names import fit
from pgduet.operations.shadow_design import ShadowColumn, ShadowDesign
from pgduet.operations.shadow_final import HungConstraint
from pgduet.operations.statement import Lock, Query, Statement
from pgduet.sql import block


class Filled(Frozen):
    """A column that must not be empty any more, and the check from which PostgreSQL will know that none is."""

    column: str
    check: str
    name: str | None = None
    """What its NOT NULL is called (PostgreSQL 18)."""


def in_the_way(design: ShadowDesign, columns: Sequence[ColumnFacts]) -> Iterator[tuple[str, str]]:
    """Say what contract would lose, or was mapped otherwise, each with what undoes it."""
    now = {column.name: column for column in columns}
    whole = design.kind == "shadow_table"
    for name in [name for name in now if whole and name not in {each.name for each in design.anchors}]:
        yield f'column "{name}" has come', f"{_alter(design)} DROP COLUMN {_quoted(name)}"
    for anchor in design.anchors:
        if not (whole or anchor.sources):
            continue
        if (column := now.get(anchor.name)) is None:
            yield f'column "{anchor.name}" is gone', f"{_alter(design)} ADD COLUMN {_quoted(anchor.name)} {anchor.type}"
        elif column.type != anchor.type:
            cure = f"{_alter(design)} ALTER COLUMN {_quoted(anchor.name)} TYPE {anchor.type}"
            yield f'column "{anchor.name}" was {anchor.type}, and is {column.type}', cure
    for computed in design.columns:
        there = now.get(computed.name)
        if computed.generated is not None and there is not None and there.formula != computed.generated:
            said = f'column "{computed.name}" was computed as {computed.generated}, and is not'
            yield said, "make it as it was"
    if (numbered := _numbered_otherwise(design, now)) is not None:
        yield f'column "{numbered}" is numbered otherwise', "number it as before"


def refuse(
    plan: str, design: ShadowDesign, columns: Sequence[ColumnFacts], *, way_back: bool, filled: Iterable[Filled] = ()
) -> None:
    """Refuse to go on; for a NOT NULL that only contract takes over, too, where that is `filled`.

    Raises:
        ColumnsChanged: naming what has changed, and what helps.
    """
    found = list(in_the_way(design, columns))
    for each in filled:
        cure = f"{_alter(design)} ALTER COLUMN {_quoted(each.column)} DROP NOT NULL (the new table can have it after cutover)"
        found.append((f'column "{each.column}" is NOT NULL', cure))
    if found:
        back = f" Or roll back, which keeps it: pgduet rollback {plan}; then start again." if way_back else ""
        raise ColumnsChanged(
            f"since preflight of {design.schema_name}.{design.table}: {'; '.join(said for said, _ in found)}",
            hint=f"{'; '.join(cure for _, cure in found)}; then: pgduet advance {plan}.{back}",
        )


def refuse_loss(plan: str, design: ShadowDesign, names: Iterable[str]) -> None:
    """Refuse to drop a shadow that has columns which somebody has given it, by the table's name.

    Raises:
        ColumnsChanged: naming them.
    """
    known = {column.name for column in design.columns}
    if came := [name for name in names if name not in known]:
        relation = design.shadow_label
        cures = "; ".join(f"ALTER TABLE {relation} DROP COLUMN {_quoted(name)}" for name in came)
        raise ColumnsChanged(
            f"{relation}, which a rollback drops, has columns that are not of the plan: {', '.join(map(_quoted, came))}",
            hint=f"Save what they hold, then: {cures}. The rollback of {plan} goes on by itself.",
        )


def as_now(design: ShadowDesign, columns: Sequence[ColumnFacts]) -> ShadowDesign:
    """Give the design with what follows the anchor as it is there now."""
    if design.swapped is not None:
        return design
    now = {column.name: column for column in columns}
    return design.model_copy(update={"columns": tuple(_followed(design, each, now) for each in design.columns)})


def _followed(design: ShadowDesign, column: ShadowColumn, now: dict[str, ColumnFacts]) -> ShadowColumn:
    old = now.get(column.same or column.name)
    if old is None:
        return column
    changes: dict[str, object] = {}
    if "default" in column.follows:
        up = column.up if column.same is None else None
        changes["default"] = carried_default(old, up, column.type) if up else old.default
    if "not_null" in column.follows and column.name not in design.primary_key:
        changes["nullable"] = not old.not_null
    if "comment" in column.follows:
        changes["comment"] = old.comment
    return column.model_copy(update=changes)


def loosened(now: ShadowDesign, required: Container[str]) -> list[Statement]:
    """Let columns of the shadow be empty that may be so in the anchor by now: it would refuse an old client's write."""
    return [
        Statement(
            block("columns", "drop_not_null").format(relation=now.shadow, column=sql.Identifier(column.name)),
            f"{column.name} may be empty",
            Lock.ACCESS_EXCLUSIVE,
            now.shadow_label,
        )
        for column in now.columns
        if "not_null" in column.follows and column.nullable and column.name in required
    ]


def filled(now: ShadowDesign, required: Container[str], names: Mapping[str, str]) -> list[Filled]:
    """Name the columns that must not be empty by now; `names` has what the anchor's NOT NULLs are called."""
    return [
        Filled(column=each.name, check=fit(f"_pgduet_{each.name}_filled"), name=names.get(each.same or each.name))
        for each in now.columns
        if "not_null" in each.follows and not each.nullable and each.name not in required
    ]


def checks(design: ShadowDesign, wanted: Iterable[Filled]) -> list[HungConstraint]:
    """Give the checks that say so to the anchor's successor, to be added without a look at the rows."""
    return [
        HungConstraint(
            schema_name=design.schema_name,
            table=design.shown_as,
            name=each.check,
            definition=sql.SQL("CHECK ({} IS NOT NULL)").format(sql.Identifier(each.column)).as_string(None),
            valid=False,  # who validates it drops it, too
        )
        for each in wanted
    ]


def require(design: ShadowDesign, each: Filled) -> list[Statement]:
    """Let the column be NOT NULL: the check, which is validated by then, spares the scan, and goes."""
    final = sql.Identifier(design.schema_name, design.shown_as)
    label, column = final.as_string(None), sql.Identifier(each.column)
    query: Query = block("columns", "set_not_null").format(relation=final, column=column)
    if each.name is not None:
        query = block("shadow_final", "named_not_null").format(
            relation=final, name=sql.Identifier(each.name), column=column
        )
    gone = block("columns", "drop_constraint").format(relation=final, constraint=sql.Identifier(each.check))
    return [
        Statement(query, f"{each.column} NOT NULL", Lock.ACCESS_EXCLUSIVE, label),
        Statement(gone, "the check has served", Lock.ACCESS_EXCLUSIVE, label),
    ]


def mark(design: ShadowDesign) -> Query:
    """Ask for what tells whether the anchor's columns are as they were when they were looked at."""
    return block("shadow_final", "columns_are").format(relation=sql.Literal(design.relation_label))


def as_seen(design: ShadowDesign, known: str) -> Statement:
    """Raise 55000 where the anchor's columns are others than those that were looked at; to be run while it is locked."""
    body = block("shadow_final", "as_seen_body").format(now=mark(design), known=sql.Literal(known)).as_string(None)
    query = block("shadow_final", "as_seen").format(body=sql.Literal(body))
    return Statement(query, "its columns are as we saw them", Lock.ACCESS_EXCLUSIVE, design.relation_label)


def _numbered_otherwise(design: ShadowDesign, now: dict[str, ColumnFacts]) -> str | None:
    if design.kind != "shadow_table" or design.numbering is None:
        return None
    name = next(key.anchor for key in design.key if key.shadow == design.numbered_column)
    column = now.get(name)
    kept = column is None or column.identity or column.default == design.numbering
    return None if kept else name


def _alter(design: ShadowDesign) -> str:
    return f"ALTER TABLE {design.relation_label}"


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)
