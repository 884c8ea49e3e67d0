"""Statements that bring one side of a comparison in line with the other, row by row, by keys that were found to differ."""

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from pgduet.operations.comparison import SHADOW, SOURCE, Column, Comparison, KeyColumn, Mapping
from pgduet.operations.pairing import (
    ALL,
    all_of,
    among,
    any_of,
    cast,
    commas,
    compared,
    expected,
    mapping_differs,
    match,
    rows_differ,
    shadow_keys,
    source_keys,
)
from pgduet.operations.statement import Query
from pgduet.phases import Authority
from pgduet.sql import block


def lock(comparison: Comparison, suspects: Sequence[dict[str, Any]], *, extra: bool) -> Query:
    """Lock the rows of suspects, in the order of their keys: of the source, or of the shadow where only that has them."""
    order = shadow_keys(comparison) if extra else source_keys(comparison)
    return block("compare", "lock_rows").format(
        relation=comparison.shadow_relation if extra else comparison.source_relation,
        row=SHADOW if extra else SOURCE,
        among=among(comparison, suspects, extra=extra),
        order=commas(order),
    )


def repairs(comparison: Comparison, suspects: Sequence[dict[str, Any]], authority: Authority) -> list[Query]:
    """Bring rows of the side without authority in line; a row that is in step already is left alone.

    All are keyed as the suspects are: those of kind `extra` by the shadow's key, others by the source's.
    """
    by_source = [each for each in suspects if each["kind"] != "extra"]
    by_shadow = [each for each in suspects if each["kind"] == "extra"]
    towards = Towards(comparison, authority)
    lacking, surplus = (by_source, by_shadow) if authority is Authority.OLD else (by_shadow, by_source)
    return [
        *([towards.delete(surplus)] if surplus else []),
        *([towards.update(by_source)] if by_source else []),
        *([towards.insert(lacking)] if lacking else []),
    ]


class Towards:
    """Writes of one side, from the row of the other, which has authority."""

    def __init__(
        self,
        comparison: Comparison,
        authority: Authority,
        *,
        fits: sql.Composable = ALL,
        without: frozenset[str] = frozenset(),
    ) -> None:
        """Take the comparison, which side is right, what a row must be to be inserted, and the columns that are not written."""
        old = authority is Authority.OLD
        self.comparison = comparison
        self.fits = fits
        self.without = without
        self.old = old
        self.row, self.other = (SOURCE, SHADOW) if old else (SHADOW, SOURCE)
        self.origin = comparison.source_relation if old else comparison.shadow_relation
        self.target = comparison.shadow_relation if old else comparison.source_relation
        self.keys = [column.shadow if old else column.source for column in comparison.key]

    def columns(self, mapping: Mapping) -> list[Column]:
        """Give what is written of a mapping."""
        columns = mapping.up if self.old else mapping.down
        kept_out = {*self.keys, *self.without}
        return [column for column in columns if column.written and column.name not in kept_out]

    @property
    def wanted(self) -> Query:
        """Render that the source's row belongs in the shadow."""
        return expected(self.comparison) if self.old else ALL

    def insert(self, suspects: Sequence[dict[str, Any]]) -> Query:
        """Write the rows that are lacking; what is there by now is left alone."""
        written = {column.name: column for m in self.comparison.mappings for column in self.columns(m)}
        told = list(written.values())
        values = [self._key_value(column) for column in self.comparison.key]
        return block("compare", "insert_missing").format(
            columns=commas(sql.Identifier(name) for name in [*self.keys, *(column.name for column in told)]),
            values=commas([*values, *(column.expected(self.row) for column in told)]),
            among=among(self.comparison, suspects, extra=not self.old),
            **{**self._both(), "wanted": all_of([self.wanted, self.fits])},
        )

    def update(self, suspects: Sequence[dict[str, Any]], *, extra: bool = False) -> Query:
        """Write what differs; of a row whose other values one direction explains, those stay."""
        both_ways = self.comparison.both_ways
        told: dict[str, tuple[Column, list[Query]]] = {}
        for mapping in compared(self.comparison):
            for column in self.columns(mapping):
                told.setdefault(column.name, (column, []))[1].append(mapping_differs(mapping, both_ways=both_ways))
        assign = [
            block("compare", "assigned").format(
                name=sql.Identifier(name), other=self.other, differs=any_of(differ), value=column.expected(self.row)
            )
            for name, (column, differ) in told.items()
        ]
        if not assign:
            return sql.SQL("SELECT WHERE false")
        return block("compare", "update_differing").format(
            assign=commas(assign),
            among=among(self.comparison, suspects, extra=extra),
            differs=rows_differ(self.comparison),
            **self._both(),
        )

    def delete(self, suspects: Sequence[dict[str, Any]]) -> Query:
        """Take away the rows that should not be there."""
        meant = among(self.comparison, suspects, extra=self.old)
        return block("compare", "delete_extra").format(among=meant, **self._both())

    def _both(self) -> dict[str, sql.Composable]:
        return {
            "target": self.target,
            "origin": self.origin,
            "row": self.row,
            "other": self.other,
            "match": match(self.comparison, mapped=False),
            "wanted": self.wanted,
        }

    def _key_value(self, column: KeyColumn) -> sql.Composable:
        across = column.up if self.old else column.down
        if across is None:
            return sql.SQL("{}.{}").format(self.row, sql.Identifier(column.source if self.old else column.shadow))
        return cast(across.over(self.row), column.shadow_type if self.old else column.source_type)
