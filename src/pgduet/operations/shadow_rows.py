"""Statements over the rows of a shadow: the copy by page ranges, what empties the journal, parity (ADR 28).

The copy takes no row lock and knows no conflict. A row that changes meanwhile may be copied twice, as it was, or not at all; its
key stands in the journal, which was there before the first page was read. So before the key is built, all journalled rows are
deleted, and afterwards they are read again, each under its own lock.
"""

from psycopg import sql

from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_keys import (
    NOTHING,
    J,
    O,
    S,
    anchor_key,
    key_as_json,
    same,
    shadow_key,
    to_anchor,
    to_shadow,
)
from pgduet.operations.statement import Query, Statement, identifiers
from pgduet.sql import block

START = "(0,0)"
G = sql.SQL("g")


def copy(design: ShadowDesign, heap: sql.Identifier, first: int, last: int, *, safe: bool = False) -> Query:
    """Copy the rows of a range of pages of the anchor, or of a partition of it; `safe` leaves out what `up` cannot map."""
    return block("shadow", "copy").format(
        shadow=design.shadow,
        relation=heap,
        pages=page_range(first, last),
        **_mapped(design, safe=safe),
    )


def lock_anchor(design: ShadowDesign, heap: sql.Identifier) -> Query:
    """Lock the anchor, then a partition of it, in a transaction and before the shadow: in the order of TRUNCATE, DROP and DETACH.

    What reads a partition may come to the whole table: by its row type, and where a row is written, by the partition's bounds.
    """
    whole = sql.SQL("ONLY {}, ").format(design.relation) if design.parted else NOTHING
    return block("shadow", "lock_shared").format(relations=whole + heap)


def lock_whole(design: ShadowDesign) -> Query:
    """Lock the anchor alone, ahead of what reads partitions one after the other."""
    return block("shadow", "lock_shared").format(relations=sql.SQL("ONLY {}").format(design.relation))


def journal_all(design: ShadowDesign, heap: sql.Identifier, first: int, last: int) -> Query:
    """Put the keys of all rows on some pages of the anchor, or of a partition of it, into the journal."""
    parts = {"journal": design.journal, "keys": _names(anchor_key(design, O)), "relation": heap}
    return block("shadow", "journal_all").format(**parts, pages=page_range(first, last))


def journal_surplus(design: ShadowDesign, heap: sql.Identifier, first: int, last: int) -> Query:
    """Put the keys on some pages of the shadow, or of a partition of it, into the journal that the anchor does not have."""
    return block("shadow", "journal_surplus").format(
        journal=design.journal,
        keys=_names(to_anchor(design, S)),
        heap=heap,
        pages=page_range(first, last, S),
        relation=design.relation,
        o_is_s=same(anchor_key(design, O), to_anchor(design, S)),
    )


def unmapped(design: ShadowDesign, heap: sql.Identifier, first: int, last: int, limit: int) -> Query:
    """Name the rows of a page range that the shadow cannot hold, with PostgreSQL's reason."""
    return block("shadow", "unmapped").format(
        key=key_as_json(design, O),
        fits=design.routine("shadow_fits"),
        relation=heap,
        pages=page_range(first, last),
        limit=sql.Literal(limit),
    )


def clear_journalled(design: ShadowDesign) -> Query:
    """Delete what may have been copied twice, or should not have been."""
    return block("shadow", "clear_journalled").format(
        shadow=design.shadow,
        journal=design.journal,
        journal_key=_names(anchor_key(design, J)),
        s_is_j=same(shadow_key(design, S), to_shadow(design, J)),
    )


def journalled(design: ShadowDesign) -> Query:
    """Render that a row of the anchor, which is called `t`, is among some of those whose keys are in the journal."""
    parts = {"journal": design.journal, "relation": design.relation}
    return block("shadow", "journalled").format(**parts, o_is_j=same(anchor_key(design, O), anchor_key(design, J)))


def drain_function(design: ShadowDesign, migration_id: int) -> Statement:
    """Create what empties the journal."""
    body = block("shadow", "drain").format(
        journal=design.journal,
        relation=design.relation,
        shadow=design.shadow,
        label=sql.Literal(design.shadow_label),
        j_key=_names(anchor_key(design, J)),
        g_key=_names(anchor_key(design, G)),
        o_key=_names(anchor_key(design, O)),
        s_key=_names(shadow_key(design, S)),
        o_is_j=same(anchor_key(design, O), anchor_key(design, J)),
        s_is_j=same(shadow_key(design, S), to_shadow(design, J)),
        s_is_stale=same(shadow_key(design, S), shadow_key(design, sql.SQL("stale"))),
        noted=_note_unmapped(design, migration_id),
        **_mapped(design, safe=design.guarded, joined=True),
    )
    query = block("shadow", "drain_function").format(
        function=design.routine("drain"), body=sql.Literal(body.as_string(None))
    )
    return Statement(query, f"drain of {design.shadow_label}")


def _note_unmapped(design: ShadowDesign, migration_id: int) -> Query:
    if not design.guarded:
        return NOTHING
    return block("shadow", "note_unmapped").format(
        migration_id=sql.Literal(migration_id),
        label=sql.Literal(design.label),
        drift_key=key_as_json(design, O),
        fits=design.routine("shadow_fits"),
        relation=design.relation,
        o_is_j=same(anchor_key(design, O), anchor_key(design, J)),
        exists=sql.SQL(" AND {}").format(design.exists.over(O)) if design.exists else NOTHING,
    )


def drain(design: ShadowDesign, most: int, place: str = START) -> Query:
    """Carry over the journalled keys from a place on; tells where it ended, how many there were, how many are left.

    A pass ends where there were none; the journal is empty when that was so from `START` on.
    """
    parts = {"most": sql.Literal(most), "place": sql.Literal(place)}
    return block("shadow", "call_drain").format(function=design.routine("drain"), **parts)


def owes(design: ShadowDesign) -> Query:
    """Ask whether something stands in the journal, or is to be put there."""
    return block("shadow", "owes").format(journal=design.journal, label=sql.Literal(design.shadow_label))


def owes_nothing(design: ShadowDesign) -> Statement:
    """Raise 55000 where something does; to be run while the anchor is locked."""
    body = block("shadow", "owes_nothing_body").format(owes=owes(design))
    query = block("shadow", "owes_nothing").format(body=sql.Literal(body.as_string(None)))
    return Statement(query, f"{design.shadow_label} has all that was noted")


def parity(design: ShadowDesign, *, published: bool = False) -> Query:
    """Count rows and those that only one side has or that differ, in one snapshot; for maps without loss.

    Once it is published, columns that only the new version has follow nothing.
    """
    compared = [column for column in design.mapped if not (published and column in design.apart)]
    there = sql.SQL(" WHERE {}").format(design.exists.over(O)) if design.exists else sql.SQL("")
    (first, *_), (shadowed, *_) = anchor_key(design, O), shadow_key(design, S)
    missing = sql.SQL("{} IS NULL OR {} IS NULL").format(first, shadowed)
    parts = [missing, *(column.differs(column.of(S), column.up_value(O)) for column in compared)]
    return block("shadow", "parity").format(
        relation=design.relation,
        shadow=design.shadow,
        exists=there,
        differs=sql.SQL(" OR ").join(parts),
        same=same(shadow_key(design, S), to_shadow(design, O)),
    )


def _mapped(design: ShadowDesign, *, safe: bool, joined: bool = False) -> dict[str, sql.Composable]:
    conditions = []
    if design.exists is not None:
        conditions.append(design.exists.over(O))
    if safe and design.guarded:
        conditions.append(sql.SQL("{}(o) IS NULL").format(design.routine("shadow_fits")))
    lead = " WHERE " if joined else " AND "
    condition = sql.SQL(lead) + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
    return {
        "columns": identifiers(column.name for column in design.mapped),
        "values": sql.SQL(", ").join(column.up_value(O) for column in design.mapped),
        "condition": condition,
    }


def _names(values: list[Query]) -> Query:
    return sql.SQL(", ").join(values)


def page_range(first: int, last: int, row: sql.Composable = O) -> Query:
    """Render that a row, of the anchor unless said otherwise, lies on some pages."""
    bounds = {"first": sql.Literal(f"({first},0)"), "last": sql.Literal(f"({last},0)")}
    return block("rows", "pages").format(row=row, **bounds)
