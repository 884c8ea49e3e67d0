"""What the phases ask of a shadow beside filling and writing it: probes, samples, the archive (ADR 28)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pgduet.operations.design import Design
from pgduet.operations.names import version_schema
from pgduet.operations.shadow_design import ShadowColumn, ShadowDesign
from pgduet.operations.shadow_keys import (
    O,
    S,
    anchor_key,
    any_of,
    assigned,
    cast,
    fields,
    key_as_json,
    listed,
    quoted,
    same,
    shadow_key,
    to_shadow,
)
from pgduet.operations.shadow_rows import page_range
from pgduet.operations.statement import Query, Statement, trusted
from pgduet.sql import block

A, J = sql.SQL("a"), sql.SQL("j")
Key = Sequence[Any]
"""The values of a row's key, in the anchor's order."""


def view(design: ShadowDesign, version: str) -> sql.Identifier:
    """Name the view of the shadow in the new version, or a later one."""
    return sql.Identifier(version_schema(design.schema_name, version), design.shown_as)


# Probes


def touch(design: ShadowDesign, heap: sql.Identifier) -> Query | None:
    """Update a column of some row to itself; gives its key. Nothing where no column can be set."""
    computed = {column.name for column in design.columns if column.generated} | {key.anchor for key in design.key}
    found = [column.name for column in design.anchors if column.name not in computed and not column.always]
    if not found:
        return None
    name = sql.Identifier(found[0])
    return block("shadow_phases", "touch").format(
        heap=heap, touch=sql.SQL("{0} = o.{0}").format(name), key=listed(anchor_key(design, O))
    )


def noted(design: ShadowDesign, key: Key) -> Query:
    """Ask whether a key stands in the journal."""
    return block("shadow_phases", "noted").format(journal=design.journal, same=_is_anchor(design, J, key))


def some_row(design: ShadowDesign) -> Query:
    """Give the key of some row of the shadow."""
    return block("shadow_phases", "some_row").format(key=listed(shadow_key(design, S)), shadow=design.shadow)


def lock_row(design: ShadowDesign, key: Key) -> Query:
    """Lock the anchor's row of a key, if it is free."""
    return block("shadow_phases", "lock_row").format(relation=design.relation, same=_is_anchor(design, O, key))


def given(design: ShadowDesign) -> ShadowColumn | None:
    """Choose the column by which the way back is probed: of no key, and rather one whose value cannot be refused."""
    bound = {*design.primary_key, *design.partition_key, *(name for key in design.unique for name in key.shadow)}
    bound |= {column.name for column in design.apart}
    found = [column for column in design.mapped if column.name not in bound]
    kept = [column for column in found if column.same is not None]
    if kept or design.unmappable == "archive":
        return kept[0] if kept else None
    return found[0] if found else None


def give(design: ShadowDesign, column: ShadowColumn, key: Key) -> Query:
    """Give a row of the shadow another row's value."""
    return block("shadow_phases", "give").format(
        shadow=design.shadow, column=sql.Identifier(column.name), same=_is_shadow(design, S, key)
    )


def follows(design: ShadowDesign, column: ShadowColumn, key: Key) -> Query:
    """Ask whether the anchor's row has the value, too."""
    return block("shadow_phases", "follows").format(
        follows=sql.SQL("NOT ({})").format(column.differs(column.of(S), column.up_value(O))),
        relation=design.relation,
        shadow=design.shadow,
        joined=_joined(design),
        same=_is_shadow(design, S, key),
    )


# Samples


def keys(design: ShadowDesign, heap: sql.Identifier, page: int, limit: int) -> Query:
    """Read the keys of one page of the anchor."""
    return block("shadow_phases", "keys").format(
        key=listed(anchor_key(design, O)), heap=heap, pages=page_range(page, page + 1), limit=sql.Literal(limit)
    )


def read(plan: Design, design: ShadowDesign, shown: Collection[str], key: Key, *, new: bool) -> Query:
    """Read one row through a version's view; of the old one what it shows."""
    if new:
        names, where = [column.name for column in design.columns], _is_shadow(design, sql.SQL("v"), key)
    else:
        names = [column.name for column in design.anchors if column.name in shown]
        where = _is_anchor(design, sql.SQL("v"), key)
    version = view(design, plan.to_version) if new else _old_view(plan, design)
    return block("shadow_phases", "read").format(
        columns=listed(fields(sql.SQL("v"), names)), view=sql.SQL("{} AS v").format(version), same=where
    )


def sample(plan: Design, design: ShadowDesign, shown: Collection[str], key: Key) -> Query:
    """Compare one row's answers of both versions; a value without an old equivalent is right where `down` gives the old one."""
    (first, *_) = shadow_key(design, S)
    there = sql.SQL("{} IS NOT NULL").format(first)
    if design.exists is not None:
        readable = set(design.exists.columns) <= set(shown)
        expected: Query = sql.SQL("coalesce({}, false)").format(design.exists.over(O)) if readable else there
    else:
        expected = sql.SQL("true")
    different = [sql.SQL("({}) IS DISTINCT FROM ({})").format(expected, there)]
    different += [
        sql.SQL("({} AND {})").format(there, _wrong(design, column))
        for column in design.mapped
        if set(column.sources) <= set(shown) and column not in design.apart
    ]
    return block("shadow_phases", "sample").format(
        differs=any_of(different),
        old=_old_view(plan, design),
        new=view(design, plan.to_version),
        joined=_joined(design),
        same=_is_anchor(design, O, key),
    )


def _wrong(design: ShadowDesign, column: ShadowColumn) -> Query:
    """Render that a column is not what `up` gives, and that what it is made from is not what `down` gives either."""
    up = column.differs(column.of(S), column.up_value(O))
    downs = [each for each in design.downs if each.down is not None and column.name in each.sources]
    if column.same is not None or not downs:
        return up
    back = any_of(each.differs(each.of(O), each.down_value(S)) for each in downs)
    return sql.SQL("({} AND {})").format(up, back)


def _old_view(plan: Design, design: ShadowDesign) -> sql.Identifier:
    return sql.Identifier(version_schema(design.schema_name, plan.from_version), design.table)


# The archive


@dataclass(frozen=True, slots=True)
class Kept:
    """Columns that are archived together, under a number of their own; they come back where `beside` is as it was."""

    number: int
    columns: tuple[ShadowColumn, ...]
    beside: tuple[str, ...]


def kept(design: ShadowDesign) -> tuple[Kept, ...]:
    """Give the columns that may hold what the anchor cannot: mapped ones, and apart from them those of the new version's own."""
    lossy, apart = design.lossy, design.apart
    sources = tuple(dict.fromkeys(name for column in lossy for name in column.sources))
    found = (Kept(design.position, lossy, sources), Kept(-1 - design.position, apart, ()))
    return tuple(each for each in found if each.columns)


def archive_new(plan: Design, design: ShadowDesign, attempt: int) -> list[Query]:
    """Save what the shadow holds and the anchor cannot give."""
    return [
        block("shadow_phases", "archive_new").format(
            **_archived(plan, design, attempt, each.number),
            kept=_texts({column.name: column.of(S) for column in each.columns}),
            beside=_beside(each),
            differs=_differs(design, each.columns),
        )
        for each in kept(design)
    ]


def restore(plan: Design, design: ShadowDesign, group: Kept, ids: Sequence[int]) -> Query:
    """Bring archived values back by their ids, where nobody has written since."""
    names = [sql.Identifier(f"_key_{number}") for number, _ in enumerate(design.key)]
    key_columns = [
        sql.SQL("(key ->> {})::{} AS {}").format(sql.Literal(column.anchor), trusted(column.anchor_type), name)
        for column, name in zip(design.key, names, strict=True)
    ]
    value = sql.SQL("(a.kept ->> {})::{}")
    return block("shadow_phases", "restore").format(
        key_columns=listed(key_columns),
        ids=sql.Literal(list(ids)),
        migration=sql.Literal(plan.name),
        label=sql.Literal(design.label),
        position=sql.Literal(group.number),
        relation=design.relation,
        shadow=design.shadow,
        o_is_a=same(anchor_key(design, O), [sql.SQL("a.{}").format(name) for name in names]),
        beside=_beside(group),
        assign=assigned((c.name, value.format(sql.Literal(c.name), trusted(c.type))) for c in group.columns),
        joined=_joined(design),
        differs=_differs(design, group.columns),
    )


def archive_old(plan: Design, design: ShadowDesign, attempt: int) -> list[Query]:
    """Save what the anchor holds and `down` does not give back."""
    downs = [column for column in design.downs if column.down is not None]
    if not downs:
        return []
    sources = dict.fromkeys(name for column in downs for name in column.sources)
    query = block("shadow_phases", "archive_old").format(
        **_archived(plan, design, attempt, design.position),
        kept=_texts({column.name: column.of(O) for column in downs}),
        beside=_texts({name: sql.SQL("s.{}").format(sql.Identifier(name)) for name in sources}),
        back=design.routine("shadow_back"),
    )
    return [query]


def back(design: ShadowDesign) -> list[Statement]:
    """Create what gives a row's old values, whatever `down` does."""
    downs = [column for column in design.downs if column.down is not None]
    if not downs:
        return []
    texts = _texts({c.name: cast(c.down_value(S), c.type) for c in downs})
    body = block("shadow_phases", "back_body").format(texts=texts)
    query = block("shadow_phases", "back").format(
        function=design.routine("shadow_back"), shadow=design.shadow, body=quoted(body)
    )
    return [Statement(query, f"shadow_back of {design.label}")]


def _archived(plan: Design, design: ShadowDesign, attempt: int, number: int) -> dict[str, sql.Composable]:
    return {
        "migration": sql.Literal(plan.name),
        "attempt": sql.Literal(attempt),
        "label": sql.Literal(design.label),
        "key": key_as_json(design, O),
        "position": sql.Literal(number),
        "relation": design.relation,
        "shadow": design.shadow,
        "joined": _joined(design),
    }


def _differs(design: ShadowDesign, columns: Sequence[ShadowColumn]) -> Query:
    """Render that the shadow's row has what `up` does not give."""
    made = [column for column in columns if column.up is not None]
    lossy = any_of(column.differs(column.of(S), column.up_value(O)) for column in made)
    if design.guarded and made:
        lossy = sql.SQL("(CASE WHEN {}(o) IS NULL THEN {} ELSE true END)").format(design.routine("shadow_fits"), lossy)
    alone = [sql.SQL("{} IS NOT NULL").format(column.of(S)) for column in columns if column.up is None]
    return any_of([lossy, *alone])


def _beside(group: Kept) -> Query:
    return _texts({name: sql.SQL("o.{}").format(sql.Identifier(name)) for name in group.beside})


def _texts(values: Mapping[str, sql.Composable]) -> Query:
    pairs = [sql.SQL("{}, {}::text").format(sql.Literal(name), value) for name, value in values.items()]
    # A call takes 100 arguments at most.
    pieces = [listed(pairs[start : start + 40]) for start in range(0, max(1, len(pairs)), 40)]
    return sql.SQL("({})").format(
        sql.SQL(" || ").join(sql.SQL("jsonb_build_object({})").format(piece) for piece in pieces)
    )


def _joined(design: ShadowDesign) -> Query:
    return same(shadow_key(design, S), to_shadow(design, O))


def _is_anchor(design: ShadowDesign, row: sql.Composable, key: Key) -> Query:
    values = [cast(sql.Literal(value), c.anchor_type) for value, c in zip(key, design.key, strict=True)]
    return same(anchor_key(design, row), values)


def _is_shadow(design: ShadowDesign, row: sql.Composable, key: Key) -> Query:
    values = [cast(sql.Literal(value), c.shadow_type) for value, c in zip(key, design.key, strict=True)]
    return same(shadow_key(design, row), values)
