"""What a shadow carries over from its anchor, as values: read and tried by `pgduet.postgres.shadow_carrying` (ADR 28).

Names of columns are the shadow's, texts are PostgreSQL's own over them. Nothing of it is kept: it is read where it is needed, so
what somebody gave the anchor during the migration is carried, too.
"""

from collections.abc import Sequence

from psycopg import sql

from pgduet.operations.constraints import CarriedIndex
from pgduet.operations.design import TableDesign
from pgduet.operations.expressions import Expression, Frozen
from pgduet.operations.names import fit
from pgduet.operations.shadow_design import ShadowColumn, ShadowDesign

WIDER = {("smallint", "integer"), ("smallint", "bigint"), ("integer", "bigint")}


class Right(Frozen):
    """A privilege, on the relation or on one of its columns; the empty grantee is everybody."""

    grantee: str
    privilege: str
    grantable: bool = False
    column: str | None = None


class CarriedColumn(Frozen):
    """What a column has beside its type, by the shadow's name for it."""

    name: str
    storage: str | None = None
    """PostgreSQL's letter, where it is not the type's own."""
    compression: str | None = None
    statistics: int | None = None
    options: tuple[str, ...] = ()
    comment: str | None = None
    not_null: str | None = None
    """The name of its NOT NULL, from PostgreSQL 18 on."""


class IndexPart(Frozen):
    """A column of an index, or an expression: what its values are compared by."""

    text: str
    """In parentheses, over the shadow's columns."""
    operator: str = "="
    """With its schema: the operator class has its own."""
    collation: str | None = None


class ShadowIndex(Frozen):
    """An index of the anchor over the shadow's columns; `definition` begins behind `ON <table> `, with the tablespace in it."""

    name: str
    working: str
    definition: str
    unique: bool = False
    constraint: bool = False
    """It stands behind a UNIQUE constraint."""
    deferrable: bool = False
    deferred: bool = False
    equal: bool = False
    """Unique, and for the same rows as on the anchor: its columns have the same values."""
    keys: tuple[str, ...] = ()
    """The columns that it is over; an expression is none."""
    parts: tuple[IndexPart, ...] = ()
    """Of a unique one."""
    predicate: str | None = None
    nulls_distinct: bool = True
    comment: str | None = None
    targets: tuple[tuple[int, int], ...] = ()
    """Statistics targets of its expressions, by their places."""

    @property
    def binds(self) -> bool:
        """Tell whether it can refuse what the anchor accepts: it is for the cutover."""
        return self.unique and not self.equal

    def as_carried(self) -> CarriedIndex:
        """Give it as what builds indexes beside clients knows it."""
        return CarriedIndex(
            name=self.name,
            working=self.working,
            definition=self.definition,
            unique=self.unique,
            constraint=self.constraint,
            deferrable=self.deferrable,
            deferred=self.deferred,
            shown=self.name,
            predicate=self.predicate,
            nulls_distinct=self.nulls_distinct,
        )


class KeyIndex(Frozen):
    """What the primary key's index has beside its columns."""

    name: str
    options: tuple[str, ...] = ()
    tablespace: str | None = None
    comment: str | None = None


class CarriedStatistics(Frozen):
    """Extended statistics; `definition` is what stands between their name and `FROM`."""

    schema_name: str
    name: str
    working: str
    definition: str
    owner: str
    target: int | None = None
    comment: str | None = None


class CarriedPolicy(Frozen):
    """A policy of row level security; no roles means everybody."""

    name: str
    permissive: bool
    command: str
    """PostgreSQL's letter: `*` for all, `r`, `a`, `w`, `d`."""
    roles: tuple[str, ...] = ()
    role_ids: tuple[int, ...] = ()
    """The same roles by number: a role may be given another name."""
    columns: tuple[str, ...] = ()
    """What it reads of a row."""
    using: str | None = None
    check: str | None = None
    comment: str | None = None
    asks: bool = False
    """It asks other tables."""


class CarriedPublication(Frozen):
    """A publication that names the table; `condition` chooses rows."""

    name: str
    columns: tuple[str, ...] = ()
    condition: str | None = None


class CarriedSequence(Frozen):
    """What an identity's sequence has beside its numbers."""

    schema_name: str
    name: str
    comment: str | None = None
    grants: tuple[Right, ...] = ()


class Lost(Frozen):
    """What cannot be carried, and why; `grave` where the plan must not go on without it."""

    kind: str
    what: str
    why: str
    grave: bool = False


class Carried(Frozen):
    """All that a shadow carries over."""

    persistence: str = "p"
    tablespace: str | None = None
    options: tuple[str, ...] = ()
    identity: str = "d"
    """PostgreSQL's letter for how logical replication names rows."""
    identity_index: str | None = None
    clustered: str | None = None
    secured: bool = False
    forced: bool = False
    owner: str = ""
    columns: tuple[CarriedColumn, ...] = ()
    key: KeyIndex | None = None
    indexes: tuple[ShadowIndex, ...] = ()
    statistics: tuple[CarriedStatistics, ...] = ()
    policies: tuple[CarriedPolicy, ...] = ()
    publications: tuple[CarriedPublication, ...] = ()
    unasked: tuple[tuple[str, bool], ...] = ()
    """Publications that a new table gets into by itself, and whether they are of all tables."""
    rights: tuple[Right, ...] = ()
    sequences: tuple[CarriedSequence, ...] = ()
    constraint_comments: tuple[tuple[str, str], ...] = ()
    trigger_comments: tuple[tuple[str, str], ...] = ()
    lost: tuple[Lost, ...] = ()


def successors(design: ShadowDesign) -> dict[str, ShadowColumn]:
    """Map the anchor's columns to the shadow's that stand for them: the same, renamed, or of the same name in another type."""
    found: dict[str, ShadowColumn] = {}
    for anchor in design.anchors:
        moves = design.kind == "extract_table"
        near = (c for c in design.columns if (c.sources == (anchor.name,) if moves else c.name == anchor.name))
        other = next(near, None)
        for column in design.columns:
            if column.same == anchor.name or _renamed(design, anchor.name, column):
                found[anchor.name] = column
                break
        else:
            if other is not None and set(other.sources) <= {anchor.name}:
                found[anchor.name] = other
    return found


def _renamed(design: ShadowDesign, name: str, column: ShadowColumn) -> bool:
    """Tell whether a column only has another name."""
    anchor = next(each for each in design.anchors if each.name == name)
    return _plain(column.up, name) and _plain(anchor.down, column.name)


def _plain(expression: Expression | None, name: str) -> bool:
    if expression is None or expression.columns != (name,):
        return False
    rest = expression.canonical.strip()
    while rest.startswith("(") and rest.endswith(")"):
        rest = rest[1:-1].strip()
    quoted = sql.Identifier(name).as_string(None)
    return rest in {f"{expression.alias}.{name}", f"{expression.alias}.{quoted}"}


def keeps_values(design: ShadowDesign, name: str, column: ShadowColumn) -> bool:
    """Tell whether a column of the shadow has the very values of one of the anchor."""
    anchor = next(each for each in design.anchors if each.name == name)
    if anchor.type != column.type and (anchor.type, column.type) not in WIDER:
        return False
    return column.same == name or column.generated is not None or _renamed(design, name, column)


def as_table(design: ShadowDesign) -> TableDesign:
    """Give the shadow as what builds indexes beside clients knows it."""
    return TableDesign(
        schema_name=design.schema_name,
        table=design.table if design.swapped else design.physical,
        key=design.primary_key,
        key_types=tuple(c.type for name in design.primary_key for c in design.columns if c.name == name),
        columns=tuple(column.name for column in design.columns),
        opaque=(),
        always_fire=True,
        mappings=(),
        partitioned=design.partition_by is not None,
        partition_key=design.partition_key,
    )


def set_aside(design: ShadowDesign) -> dict[str, str]:
    """Map the names that a swap gave the anchor's key and constraints to those that they had."""
    if design.swapped is None:
        return {}
    aside = {fit(f"{each.working}_old"): each.name for each in design.unique}
    return {**aside, fit(f"{design.set_aside}_pkey"): design.swapped.key}


def early(carried: Carried) -> list[CarriedIndex]:
    """Give the indexes that bind nobody anew: for before publication, so that new clients find them, `ON CONFLICT` included."""
    return [each.as_carried() for each in carried.indexes if not each.binds]


def late(carried: Carried) -> list[CarriedIndex]:
    """Give the unique indexes that could refuse an old client's row: for the cutover, from when on they bind everybody."""
    return [each.as_carried() for each in carried.indexes if each.binds]


def grave(carried: Carried) -> Sequence[Lost]:
    """Give what the plan must not go on without."""
    return [each for each in carried.lost if each.grave]
