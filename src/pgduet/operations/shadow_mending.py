"""Statements that bring a shadow, or its anchor, in line by keys that were found to differ, on the way that is safe at that time.

Before publication the keys are noted in the journal, and the drain reads their rows again. From publication on the drain must not
do it: it writes a row by DELETE and INSERT, by which a new client who waits for that row would change nothing, and what only the
new version knows would be lost. So rows are written in place, under the anchor's lock. After cutover it is the anchor that is
written, row by row, each named in `pgduet.row`, or its trigger would carry it back to the shadow.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from psycopg import sql

from pgduet.operations.comparison import SOURCE, Comparison
from pgduet.operations.mending import Towards
from pgduet.operations.pairing import among, cast, commas, expected, keyed_by, match
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_keys import assigned, token
from pgduet.operations.statement import Query, trusted
from pgduet.phases import Authority
from pgduet.sql import block

Suspects = Sequence[dict[str, Any]]


def engine(design: ShadowDesign) -> Query:
    """Say for the transaction that what writes the shadow is the engine: its policies and its trigger let it pass."""
    return block("compare", "engine").format(label=sql.Literal(design.shadow_label))


def note(design: ShadowDesign, comparison: Comparison, suspects: Suspects) -> Query:
    """Note the keys of rows of the anchor in the journal."""
    return block("compare", "note_keys").format(
        journal=design.journal,
        key=commas(sql.SQL("k.{}").format(sql.Identifier(column.anchor)) for column in design.key),
        keys=keyed_by(comparison, suspects, extra=False),
    )


def take_away(comparison: Comparison, suspects: Suspects) -> Query:
    """Delete rows of the shadow that the anchor does not have, or that do not belong there."""
    return Towards(comparison, Authority.OLD).delete(suspects)


def in_place(design: ShadowDesign, comparison: Comparison, suspects: Suspects) -> Iterator[Query]:
    """Write the shadow as the anchor says: what a row must not have in the new version is left out, as the sync leaves it out."""
    towards = Towards(comparison, Authority.OLD, fits=_as_the_sync(design))
    lacking, surplus = apart(suspects)
    if surplus:
        yield towards.delete(surplus)
    if lacking:
        yield towards.update(lacking)
        yield towards.insert(lacking)


def name_row(design: ShadowDesign, comparison: Comparison, suspect: dict[str, Any]) -> Query:
    """Name the row that is about to be written for both sides."""
    extra = suspect["kind"] == "extra"
    names = [(column.shadow if extra else column.anchor) for column in design.key]
    values: list[sql.Composable] = [sql.SQL("k.{}").format(sql.Identifier(name)) for name in names]
    if not extra:
        values = [cast(value, column.shadow_type) for value, column in zip(values, design.key, strict=True)]
    keys = keyed_by(comparison, [suspect], extra=extra)
    return block("compare", "row").format(token=token(design, values), keys=keys)


def anchor_in_place(
    design: ShadowDesign, comparison: Comparison, suspect: dict[str, Any], without: frozenset[str] = frozenset()
) -> Query:
    """Write the anchor's row as the shadow says; of an extraction that is the columns that were extracted.

    A row that others may refer to is not deleted: they would go with it, or be left without it.
    """
    towards = Towards(comparison, Authority.NEW, without=without)
    kind = suspect["kind"]
    if kind == "mismatch":
        return towards.update([suspect])
    if design.kind == "extract_table":
        return towards.update([suspect], extra=True) if kind == "extra" else _cleared(design, comparison, suspect)
    if kind == "extra":
        return towards.insert([suspect])
    return sql.SQL("SELECT WHERE false") if design.inbound else towards.delete([suspect])


def _cleared(design: ShadowDesign, comparison: Comparison, suspect: dict[str, Any]) -> Query:
    keys = {column.anchor for column in design.key}
    return block("compare", "clear_columns").format(
        target=comparison.source_relation,
        origin=comparison.shadow_relation,
        clear=assigned((each.name, trusted(each.emptied)) for each in design.downs if each.name not in keys),
        among=among(comparison, [suspect], extra=False),
        wanted=expected(comparison),
        match=match(comparison, mapped=False),
    )


def _as_the_sync(design: ShadowDesign) -> Query:
    """Render what the sync asks of a row before it writes it: here, what cannot be said is no."""
    conditions: list[sql.Composable] = [sql.SQL("true")]
    if design.exists is not None:
        conditions.append(design.exists.over(SOURCE))
    if design.guarded:
        conditions.append(sql.SQL("{}({}) IS NULL").format(design.routine("shadow_fits"), SOURCE))
    return sql.SQL("({})").format(sql.SQL(" AND ").join(conditions))


def apart(suspects: Suspects) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tell rows that the shadow lacks or has otherwise from those that it has too many of."""
    lacking = [each for each in suspects if each["kind"] != "extra"]
    return lacking, [each for each in suspects if each["kind"] == "extra"]
