"""What the statements of a shadow are made of: its rows' keys on both sides, comparisons, functions and triggers (ADR 28).

A key is compared in the shadow's types where the shadow's index is asked, in the anchor's where the anchor's is.
"""

from collections.abc import Iterable, Sequence

from psycopg import sql

from pgduet.operations.column_design import image_differs, is_exact
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Lock, Query, Statement, identifiers, trusted
from pgduet.sql import block

OLD, NEW = sql.SQL("OLD"), sql.SQL("NEW")
R, D, N, O, S = sql.SQL("r"), sql.SQL("d"), sql.SQL("n"), sql.SQL("o"), sql.SQL("s")  # noqa: E741  (as the blocks call them)
J = sql.SQL("j")
MET = sql.SQL("_met")
FALSE, TRUE = sql.SQL("false"), sql.SQL("true")
NOTHING = sql.SQL("")
_SPARING = {"smallint", "integer", "bigint", "uuid", "boolean"}
"""Types whose values have no `/` in them, however a session writes them."""


def anchor_key(design: ShadowDesign, row: sql.Composable) -> list[Query]:
    """Render the key of a row of the anchor."""
    return [sql.SQL("{}.{}").format(row, sql.Identifier(column.anchor)) for column in design.key]


def shadow_key(design: ShadowDesign, row: sql.Composable) -> list[Query]:
    """Render the key of a row of the shadow."""
    return [sql.SQL("{}.{}").format(row, sql.Identifier(column.shadow)) for column in design.key]


def to_shadow(design: ShadowDesign, row: sql.Composable) -> list[Query]:
    """Render the shadow's key for a row of the anchor."""
    return [cast(value, c.shadow_type) for value, c in zip(anchor_key(design, row), design.key, strict=True)]


def to_anchor(design: ShadowDesign, row: sql.Composable) -> list[Query]:
    """Render the anchor's key for a row of the shadow."""
    return [cast(value, c.anchor_type) for value, c in zip(shadow_key(design, row), design.key, strict=True)]


def same(left: Sequence[sql.Composable], right: Sequence[sql.Composable]) -> Query:
    """Render that two keys are equal."""
    pairs = zip(left, right, strict=True)
    return sql.SQL(" AND ").join(sql.SQL("{} = {}").format(*pair) for pair in pairs)


def cast(value: sql.Composable, kind: str) -> Query:
    """Render a value as another type."""
    return sql.SQL("({}::{})").format(value, trusted(kind))


def token(design: ShadowDesign, values: Sequence[sql.Composable]) -> Query:
    """Render what names a row in `pgduet.row`, from its key in the shadow's types: no other key gives the same.

    So where several parts of a key may have any text, all of these are quoted.
    """
    texts = [column.shadow_type not in _SPARING for column in design.key]
    shown = [
        sql.SQL("quote_literal({}::text)" if text and sum(texts) > 1 else "{}::text").format(value)
        for value, text in zip(values, texts, strict=True)
    ]
    parts = [sql.Literal(f"{design.shadow_label}/"), *shown]
    return sql.SQL(" || '/' || ").join([sql.SQL(" || ").join(parts[:2]), *parts[2:]])


def key_as_json(design: ShadowDesign, row: sql.Composable) -> Query:
    """Render the key of a row of the anchor as jsonb."""
    pairs = [
        sql.SQL("{}, {}").format(sql.Literal(column.anchor), value)
        for column, value in zip(design.key, anchor_key(design, row), strict=True)
    ]
    return sql.SQL("jsonb_build_object({})").format(listed(pairs))


def trigger(
    design: ShadowDesign,
    relation: sql.Identifier,
    name: str,
    function: str,
    when: str,
    each: str,
    condition: Query = NOTHING,
) -> list[Statement]:
    """Create a trigger that fires in sessions of replication, too."""
    label = relation.as_string(None)
    create = block("shadow", "trigger").format(
        trigger=sql.Identifier(name),
        when=trusted(when),
        relation=relation,
        each=trusted(each),
        condition=condition,
        function=design.routine(function),
    )
    always = block("sync", "enable_trigger").format(trigger=sql.Identifier(name), relation=relation)
    return [
        Statement(create, f"trigger on {label}", Lock.SHARE_ROW_EXCLUSIVE, label),
        Statement(always, f"trigger on {label}, always", Lock.SHARE_ROW_EXCLUSIVE, label),
    ]


def function(design: ShadowDesign, kind: str, body: sql.Composable) -> Statement:
    """Create or replace a trigger's function."""
    query = block("shadow", "function").format(function=design.routine(kind), body=quoted(body))
    return Statement(query, f"{kind} of {design.label}")


def where(design: ShadowDesign) -> dict[str, sql.Composable]:
    """Say for which table an error is raised."""
    return {"schema": sql.Literal(design.schema_name), "table": sql.Literal(design.shown_as)}


def lock_types(design: ShadowDesign) -> Query:
    """Render the types by which the policies say which row is to be locked: those of the shadow's key, and of its place."""
    place = ["oid", "tid", "boolean"] if design.partition_by else ["tid", "boolean"]
    return listed(trusted(kind) for kind in (*(column.shadow_type for column in design.key), *place))


def locked_row(design: ShadowDesign) -> Query:
    """Render what the policies say of it: its key, its place, and whether another transaction has locked or written it since.

    A row that its own transaction had locked before it wrote it bears that one's number for both.
    """
    place = ["tableoid", "ctid"] if design.partition_by else ["ctid"]
    since = sql.SQL("(xmax <> '0' AND xmax <> xmin)")
    return listed([identifiers([*design.key_names, *place]), since])


def fields(row: sql.Composable, names: Iterable[str]) -> list[Query]:
    """Render columns of a row."""
    return [sql.SQL("{}.{}").format(row, sql.Identifier(name)) for name in names]


def anchor_changed(design: ShadowDesign, name: str, left: sql.Composable, right: sql.Composable) -> Query:
    """Render that a column differs between two rows of the anchor, bit by bit."""
    column = next((each for each in design.anchors if each.name == name), None)
    kind = column.type if column else ""
    field = sql.Identifier(name)
    return image_differs(
        sql.SQL("{}.{}").format(left, field), sql.SQL("{}.{}").format(right, field), not is_exact(kind)
    )


def shadow_changed(design: ShadowDesign, name: str, left: sql.Composable, right: sql.Composable) -> Query:
    """Render that a column differs between two rows of the shadow, bit by bit."""
    column = next(each for each in design.columns if each.name == name)
    return image_differs(column.of(left), column.of(right), not is_exact(column.type))


def quoted(body: sql.Composable) -> sql.Literal:
    """Render a function's body."""
    return sql.Literal(body.as_string(None))


def assigned(pairs: Iterable[tuple[str, sql.Composable]]) -> Query:
    """Render assignments."""
    return listed(sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in pairs)


def any_of(conditions: Iterable[sql.Composable]) -> Query:
    """Render that one of the conditions holds; never, where there are none."""
    parts = list(conditions)
    return sql.SQL("({})").format(sql.SQL(" OR ").join(parts)) if parts else FALSE


def listed(parts: Iterable[sql.Composable]) -> Query:
    """Put commas between parts."""
    return sql.SQL(", ").join(parts)


def lines(parts: Iterable[sql.Composable]) -> Query:
    """Put each part on a line."""
    return sql.SQL("\n").join(parts)
