"""Single groups of a merge as clients of both versions read them: sampled and probed."""

from collections.abc import Sequence

from psycopg import sql

from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.merge_rows_rows import S, fields, parts, reading
from pgduet.operations.shadow_keys import listed
from pgduet.operations.statement import Query
from pgduet.sql import block

Key = Sequence[str]
"""The key's values as texts, which PostgreSQL reads as literals of the key's types."""


def probe_write(design: MergeDesign) -> Query:
    """Take a row away that nobody holds; gives its key as the journal has it."""
    return block("merging", "probe_write").format(relation=design.relation, o_key_named=listed(_texts(design)))


def probe_look(design: MergeDesign, key: Key) -> Query:
    """Ask whether this transaction has noted a group."""
    return block("merging", "probe_look").format(
        journal=design.journal, j_key=parts(design)["j_key"], values=_literals(key)
    )


def some_keys(design: MergeDesign, page: int, limit: int) -> Query:
    """Read the groups that have a row on a page of the source."""
    return block("merging", "some_keys").format(
        relation=design.relation,
        o_key_texts=listed(_texts(design)),
        first=sql.Literal(f"({page},0)"),
        last=sql.Literal(f"({page + 1},0)"),
        limit=sql.Literal(limit),
    )


def read(design: MergeDesign, values: sql.Composable, *, new: bool) -> Query:
    """Read one group: by the new version what it shows, by the old one what its rows come to."""
    known = parts(design)
    if not new:
        return block("merging", "read_old").format(
            merged=known["merged"], relation=design.relation, o_key=known["o_key"], values=values
        )
    return block("merging", "read_new").format(
        s_measures=listed(fields(S, [each.name for each in design.columns])),
        reading=reading(design),
        s_key=listed(fields(S, design.target_key)),
        values=values,
    )


def prepare(design: MergeDesign, *, new: bool) -> Query:
    """Prepare the read of one group for this session, as an application would."""
    values = listed(sql.SQL("${}").format(sql.Literal(number)) for number in range(1, len(design.key) + 1))
    return block("merging", "prepare").format(name=_prepared(design, new=new), query=read(design, values, new=new))


def execute(design: MergeDesign, key: Key, *, new: bool) -> Query:
    """Read one group by the prepared statement."""
    return block("merging", "execute").format(name=_prepared(design, new=new), values=_literals(key))


def forget(design: MergeDesign, *, new: bool) -> Query:
    """Give up the prepared statement."""
    return block("merging", "deallocate").format(name=_prepared(design, new=new))


def compare_one(design: MergeDesign, key: Key) -> Query:
    """Compare both versions' answers for one group in one snapshot."""
    old, new = (read(design, _literals(key), new=each) for each in (False, True))
    return block("merging", "compare_one").format(old=old, new=new)


def _texts(design: MergeDesign) -> list[Query]:
    return [
        sql.SQL("o.{}::text AS {}").format(sql.Identifier(each.source), sql.Identifier(each.target))
        for each in design.key
    ]


def _literals(key: Key) -> Query:
    return listed(sql.Literal(value) for value in key)


def _prepared(design: MergeDesign, *, new: bool) -> sql.Identifier:
    return sql.Identifier(f"pgduet_{'new' if new else 'old'}_{design.position}")
