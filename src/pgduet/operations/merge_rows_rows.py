"""Statements over the groups of a merge: how they are read, filled for the first time, brought up to date, compared (ADR 32).

What makes each of them right is one rule: a note is taken first, its group is read afterwards, by a newer snapshot. So whatever is
not in the target yet has a note, in whichever snapshot somebody looks. Nobody's row is locked, nobody is waited for.
"""

from collections.abc import Iterable, Sequence

from psycopg import sql

from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.shadow_keys import any_of, assigned, listed, quoted, same
from pgduet.operations.statement import Lock, Query, Statement, identifiers, trusted
from pgduet.sql import block

A, G, J, O, S = (sql.SQL(name) for name in "agjos")  # noqa: E741  (as the blocks call them)
START = "(0,0)"
ALONE = 1885824100
"""The class of the advisory locks by which a drain keeps other drains and the filling out."""


def fields(row: sql.Composable, names: Iterable[str]) -> list[Query]:
    """Render columns of a row."""
    return [sql.SQL("{}.{}").format(row, sql.Identifier(name)) for name in names]


def keyed(design: MergeDesign, left: sql.Composable, right: sql.Composable) -> Query:
    """Render that two rows are of one group; of them only the source's has the source's names."""
    sides = [fields(row, design.source_key if row is O else design.target_key) for row in (left, right)]
    return same(*sides)


def reading(design: MergeDesign) -> Query:
    """Render what the new version reads."""
    return block("merging", "reading").format(**parts(design))


def functions(design: MergeDesign) -> list[Statement]:
    """Create what fills the target, and what empties the journal."""
    known = parts(design)
    alone = sql.SQL("{}, {}").format(sql.Literal(ALONE), _number(design))
    differs = any_of(
        sql.SQL("s.{0} IS DISTINCT FROM EXCLUDED.{0}").format(sql.Identifier(each.name)) for each in design.columns
    )
    drain = block("merging", "drain").format(
        **known,
        alone=alone,
        assign=assigned(
            (each.name, sql.SQL("EXCLUDED.{}").format(sql.Identifier(each.name))) for each in design.columns
        ),
        differs=differs,
    )
    fill = block("merging", "fill").format(**known, alone=alone, **_cursors(design))
    made = [
        ("merge_drain", "_pgduet_most integer, INOUT _pgduet_at tid, OUT taken_notes bigint", drain),
        (
            "merge_fill",
            f"_pgduet_most integer, _pgduet_first {_name(design)}, OUT _pgduet_next {_name(design)}, OUT filled_rows bigint",
            fill,
        ),
    ]
    return [
        Statement(
            block("merging", "function").format(
                function=design.routine(kind),
                arguments=trusted(arguments),
                returns=sql.SQL("record"),
                body=quoted(body),
            ),
            f"{kind} of {design.target_label}",
        )
        for kind, arguments, body in made
    ]


def fill(design: MergeDesign, most: int, first: str | None) -> Query:
    """Fill the target with the next groups: gives where to go on (nothing at the end) and how many there were."""
    return block("merging", "call_fill").format(
        function=design.routine("merge_fill"),
        most=sql.Literal(most),
        first=sql.Literal(first),
        journal=design.journal,
    )


def drain(design: MergeDesign, most: int, place: str = START) -> Query:
    """Take notes and write their groups: gives where to go on and how many there were (-1: somebody else is at it)."""
    return block("merging", "call_drain").format(
        function=design.routine("merge_drain"), most=sql.Literal(most), place=sql.Literal(place)
    )


def tidy(design: MergeDesign) -> Statement:
    """Clear away the notes that were taken, for readers step over each: after some thousands of them, outside any transaction."""
    query = block("merging", "tidy").format(journal=design.journal)
    return Statement(query, "vacuum the journal", Lock.SHARE_UPDATE_EXCLUSIVE, design.journal.as_string(None))


def parity(design: MergeDesign) -> Query:
    """Count groups, and those that the new version shows otherwise than they are."""
    return block("merging", "parity").format(**parts(design), **compared(design))


def repair(design: MergeDesign) -> Query:
    """Note the groups that the new version shows otherwise than they are."""
    pairs = [sql.SQL("coalesce(o.{0}, s.{0}) AS {0}").format(sql.Identifier(name)) for name in design.target_key]
    return block("merging", "note_drift").format(
        **parts(design), **compared(design), coalesced=listed(pairs), key_of=listed(fields(J, design.target_key))
    )


def parts(design: MergeDesign) -> dict[str, sql.Composable]:
    """Render what most statements of a merge are made of, by the names that the blocks give it."""
    source = fields(O, design.source_key)
    names = [each.name for each in design.columns]
    merged = [sql.SQL("{} AS {}").format(each.over(O), sql.Identifier(each.name)) for each in design.columns]
    pairs = zip(source, design.target_key, strict=True)
    return {
        "relation": design.relation,
        "target": design.target,
        "journal": design.journal,
        "columns": identifiers(design.names),
        "key": identifiers(design.target_key),
        "merged": listed(merged),
        "o_key": listed(source),
        "o_key_named": listed(sql.SQL("{} AS {}").format(value, sql.Identifier(name)) for value, name in pairs),
        "j_key": listed(fields(J, design.target_key)),
        "j_names": listed(fields(J, design.target_key)),
        "g_key": listed(fields(G, design.target_key)),
        "a_columns": listed(fields(A, names)),
        "s_columns": listed(fields(S, design.names)),
        "o_is_j": keyed(design, O, J),
        "s_is_j": keyed(design, S, J),
    }


def compared(design: MergeDesign) -> dict[str, sql.Composable]:
    """Render what a comparison of the groups with the new version's rows needs beside these parts."""
    key = sql.Identifier(design.target_key[0])
    differs: list[sql.Composable] = [sql.SQL("o.{} IS NULL").format(key), sql.SQL("s.{} IS NULL").format(key)]
    differs += [sql.SQL("o.{0} IS DISTINCT FROM s.{0}").format(sql.Identifier(each.name)) for each in design.columns]
    sides: Sequence[list[Query]] = [fields(row, design.target_key) for row in (O, S)]
    return {"differs": any_of(differs), "same": same(*sides), "reading": reading(design)}


def _cursors(design: MergeDesign) -> dict[str, sql.Composable]:
    return {
        f"{which}_key": listed(fields(sql.Identifier(f"_pgduet_{which}"), design.target_key))
        for which in ("first", "next")
    }


def _name(design: MergeDesign) -> str:
    return design.journal.as_string(None)


def _number(design: MergeDesign) -> Query:
    return sql.SQL("hashtext({})").format(sql.Literal(design.target_label))
