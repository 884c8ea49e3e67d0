"""Reads of one key through the old and the new version's views, and the comparison of both answers.

The old version's view may show less than the table has: somebody added a column after that version was published. Only what it
shows is read and compared.
"""

from collections.abc import Collection, Sequence
from typing import Any

from psycopg import sql

from pgduet.operations.design import Design, TableDesign
from pgduet.operations.rows import pages
from pgduet.operations.statement import Query, trusted
from pgduet.operations.views import old_name, published_name
from pgduet.sql import block

_OLD = sql.SQL("o")
_NEW = sql.SQL("n")


def keys(table: TableDesign, page: int, limit: int) -> Query:
    """Read the keys of one heap page."""
    names = sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(name)) for name in table.key)
    return block("reads", "keys").format(
        keys=names, relation=table.heap, pages=pages(page, page + 1), limit=sql.Literal(limit)
    )


def read(design: Design, table: TableDesign, shown: Collection[str], *, new: bool) -> Query:
    """Read one row by its key through a version's view; parameters are the key's values in order."""
    old = tuple(name for name in table.columns if name in shown)
    columns, key = (table.new_names, table.new_key) if new else (old, table.key)
    same = [sql.SQL("{} = %s").format(_name(sql.Identifier(name))) for name in key]
    return block("reads", "read").format(
        columns=sql.SQL(", ").join(_name(sql.Identifier(name)) for name in columns),
        view=_name(view(design, table, new=new)),
        same=sql.SQL(" AND ").join(same),
    )


def compare(design: Design, table: TableDesign, shown: Collection[str], key: Sequence[Any]) -> Query:
    """Compare one row's answers of both versions: kept columns equal, and the mapped ones as parity has it."""
    different = [
        table.differs_from(name, _OLD, sql.SQL("n.{}").format(sql.Identifier(new)))
        for name, new in table.kept_names
        if name in shown
    ]
    for mapping in table.mappings:
        if not mapping.mirrors or not set(mapping.sources) <= set(shown):
            continue
        up = [c.differs(sql.SQL("n.{}").format(sql.Identifier(c.name)), c.up_value(_OLD)) for c in mapping.columns]
        down = [table.differs_from(old.name, _OLD, old.down_value(_NEW)) for old in mapping.replaces]
        pair = sql.SQL("(({}) AND ({}))").format(sql.SQL(" OR ").join(up), sql.SQL(" OR ").join(down))
        different.append(pair)
    same = [
        sql.SQL("o.{} = {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in zip(table.key, key, strict=True)
    ]
    join = [
        sql.SQL("o.{} = n.{}").format(sql.Identifier(old), sql.Identifier(new))
        for old, new in zip(table.key, table.new_key, strict=True)
    ]
    return block("reads", "compare").format(
        differs=sql.SQL(" OR ").join(different) if different else sql.SQL("false"),
        old=view(design, table, new=False),
        new=view(design, table, new=True),
        join=sql.SQL(" AND ").join(join),
        same=sql.SQL(" AND ").join(same),
    )


def view(design: Design, table: TableDesign, *, new: bool) -> sql.Identifier:
    """Name the view that clients of one version read."""
    return published_name(table, design.to_version) if new else old_name(table, design.from_version)


def _name(identifier: sql.Identifier) -> sql.Composable:
    """Render a name for a statement with parameters, in which a percent sign must be doubled."""
    return trusted(identifier.as_string(None).replace("%", "%%"))
