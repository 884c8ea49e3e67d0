"""What is compared of an anchor and its shadow: from the design of a shadow to a comparison of pairs (ADR 28, 29).

Before publication clients write the anchor only, so a column of the shadow must be what `up` says. Afterwards a value may be one
that the other side cannot hold: then it is the other side that must be what the way back says. Which columns answer for each
other is told column by column: those that are made from each other. A column with no such partner is its own version's, as a
column that only the new version knows.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from psycopg import sql

from pgduet.operations.comparison import Column, Comparison, Trait, column, itself, key_column
from pgduet.operations.comparison import Mapping as Pairing
from pgduet.operations.shadow_design import AnchorColumn, ShadowColumn, ShadowDesign

Traits = Mapping[str, Trait]

_ROW = sql.SQL("r")
_CAST = re.compile(r"[()\s]*r\.(?:\"(?:[^\"]|\"\")+\"|[a-z_][a-z0-9_$]*)[()\s]*(?:::[a-z ]+[()\s]*)?")
"""A column itself, at most as another type of the same values."""


def comparison(design: ShadowDesign, anchor: Traits, shadow: Traits, *, published: bool) -> Comparison:
    """Say what is compared; from publication on either direction explains a pair of columns."""
    return Comparison(
        source=(design.schema_name, design.anchor_name),
        shadow=(design.schema_name, design.shadow_name),
        noted_as=(design.schema_name, design.table),
        key=tuple(key_column(anchor[each.anchor], shadow[each.shadow]) for each in design.key),
        mappings=tuple(_mappings(_Sides(design, anchor, shadow), published=published)),
        only=design.exists,
        unique=design.primary_key if set(design.primary_key) != set(design.key_names) else (),
        both_ways=published,
    )


class _Sides:
    """The columns of both sides that have to do with each other."""

    def __init__(self, design: ShadowDesign, anchor: Traits, shadow: Traits) -> None:
        keys = {each.anchor for each in design.key}
        self.design = design
        self.anchor, self.shadow = anchor, shadow
        self.ups = {each.name: each for each in design.mapped if each.name not in design.key_names}
        self.downs = {each.name: each for each in design.downs if each.name not in keys}

    def up(self, name: str) -> Column:
        each = self.ups[name]
        value = itself(each.same) if each.same is not None else each.up
        assert value is not None  # noqa: S101  (a mapped column has one of the two)
        return column(self.shadow[name], value)

    def down(self, name: str) -> Column:
        each = self.downs[name]
        value = itself(each.same) if each.same is not None else each.down
        assert value is not None  # noqa: S101  (as above)
        return column(self.anchor[name], value)

    def partners(self, each: ShadowColumn) -> tuple[str, ...]:
        """Name the anchor's columns that a column is made from, and that are made from it."""
        return tuple(name for name in each.sources if name in self.downs and each.name in self.downs[name].sources)

    def back(self, each: AnchorColumn) -> tuple[str, ...]:
        """Name the shadow's columns that a column is made from, and that are made from it."""
        return tuple(name for name in each.sources if name in self.ups and each.name in self.ups[name].sources)

    def is_one(self, each: ShadowColumn, partners: tuple[str, ...]) -> bool:
        """Tell that a column is one value on both sides."""
        if each.same is None or partners != (each.same,):
            return False
        back = self.downs[each.same]
        if back.same == each.name:
            return True
        return back.down is not None and _CAST.fullmatch(back.down.over(_ROW).as_string(None)) is not None


def _mappings(sides: _Sides, *, published: bool) -> Iterator[Pairing]:
    told: set[tuple[frozenset[str], frozenset[str]]] = set()
    changed = {each.name for each in sides.design.columns if each.same != each.name and each.generated is None}
    for each in sides.design.columns:
        if each.generated is not None:
            # What is computed from a column that has changed may rightly be another value.
            if each.name in sides.anchor and not _reads(each.generated, changed):
                yield Pairing(up=(column(sides.shadow[each.name], itself(each.name)),), one=True)
            continue
        if each.name not in sides.ups:
            continue
        partners = sides.partners(each)
        told.add((frozenset({each.name}), frozenset(partners)))
        yield Pairing(
            up=(sides.up(each.name),), down=tuple(map(sides.down, partners)), one=sides.is_one(each, partners)
        )
    if not published:
        return
    for name, anchor in sides.downs.items():
        partners = sides.back(anchor)
        if partners and (frozenset(partners), frozenset({name})) not in told:
            yield Pairing(up=tuple(map(sides.up, partners)), down=(sides.down(name),))


def _reads(formula: str, names: Iterable[str]) -> bool:
    """Tell whether a formula may read one of the columns, by its words."""
    return any(re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", formula) for name in names)
