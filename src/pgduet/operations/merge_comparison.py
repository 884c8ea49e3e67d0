"""What is compared of a merge: what groups come to, by ranges of their keys, with what the new version reads of them (ADR 32).

The new version reads a group that is noted from the source, so notes are no drift, and one statement is exact: what it sees to
differ need not be looked at again. A key whose order is not known to be the same on both sides is compared in one statement.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from pgduet.operations.comparing import Span, in_range
from pgduet.operations.comparison import Comparison, Trait, key_column
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.merge_rows_rows import fields, reading
from pgduet.operations.pairing import ALL, any_of, commas, jsonb_object, keyed_by
from pgduet.operations.shadow_keys import O, S, same
from pgduet.operations.statement import Query
from pgduet.sql import block


def comparison(design: MergeDesign, source: Mapping[str, Trait], target: Mapping[str, Trait]) -> Comparison:
    """Say by which keys groups are compared."""
    return Comparison(
        source=(design.schema_name, design.table),
        shadow=(design.schema_name, design.physical),
        key=tuple(key_column(source[key.source], target[key.target]) for key in design.key),
        mappings=(),
    )


def chunk(design: MergeDesign, compared: Comparison, span: Span, *, named: bool) -> Query:
    """Compare the groups of a range of keys."""
    o_key, s_key = fields(O, design.source_key), fields(S, design.target_key)
    ranges = [in_range(key, compared, span) if compared.aligned else ALL for key in (o_key, s_key)]
    targets = [fields(row, design.target_key) for row in (O, S)]
    first, *_ = design.target_key
    names = [each.name for each in design.columns]
    o_lacks, s_lacks = (sql.SQL("{}.{} IS NULL").format(row, sql.Identifier(first)) for row in (O, S))
    differ = [sql.SQL("o.{0} IS DISTINCT FROM s.{0}").format(sql.Identifier(name)) for name in names]
    merged = [sql.SQL("{} AS {}").format(each.over(O), sql.Identifier(each.name)) for each in design.columns]
    key = [sql.SQL("coalesce({}, {})").format(*pair) for pair in zip(*targets, strict=True)]
    parts: dict[str, sql.Composable] = {
        "differs": any_of([o_lacks, s_lacks, *differ]),
        "o_lacks": o_lacks,
        "s_lacks": s_lacks,
        "key": jsonb_object(zip(design.target_key, key, strict=True)),
        "old": _texts(O, names),
        "new": _texts(S, names),
    }
    return block("merging", "compared").format(
        found=block("merging", "named" if named else "counted").format(**parts),
        relation=design.relation,
        groups=commas(
            [
                *(
                    sql.SQL("{} AS {}").format(v, sql.Identifier(n))
                    for v, n in zip(o_key, design.target_key, strict=True)
                ),
                *merged,
            ]
        ),
        o_range=ranges[0],
        s_range=ranges[1],
        o_key=commas(o_key),
        reading=reading(design),
        same=same(*targets),
    )


def note(design: MergeDesign, compared: Comparison, suspects: Sequence[dict[str, Any]]) -> Query:
    """Note groups, which has readers ask the source at once, and the next drain write the target."""
    names = commas(sql.SQL("k.{}").format(sql.Identifier(name)) for name in design.target_key)
    return block("compare", "note_keys").format(
        journal=design.journal, key=names, keys=keyed_by(compared, suspects, extra=True)
    )


def _texts(row: sql.Composable, names: list[str]) -> Query:
    return jsonb_object((name, sql.SQL("{}.{}::text").format(row, sql.Identifier(name))) for name in names)
