"""Facts of a database's catalogue that operations need: a snapshot, read by `pgduet.postgres.catalogue`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from pgduet.operations.constraints import Identity

HangingKind = Literal[
    "index",
    "check",
    "unique",
    "primary",
    "foreign",
    "inbound",
    "itself",
    "exclusion",
    "view",
    "trigger",
    "policy",
    "generated",
    "statistics",
    "other",
]


class Facts(BaseModel):
    """A snapshot that never changes."""

    model_config = ConfigDict(frozen=True)


class Hanging(Facts):
    """An object that depends on a column, and how PostgreSQL describes it."""

    kind: HangingKind
    what: str


class ColumnFacts(Facts):
    """One column: its type in PostgreSQL's own spelling, and what hangs on it."""

    name: str
    type: str
    not_null: bool
    generated: bool
    in_key: bool
    exact: bool = True
    """False where its collation calls different texts equal."""
    identity: bool = False
    always: bool = False
    """An identity that nobody else numbers."""
    default: str | None = None
    formula: str | None = None
    """What a generated column is computed from."""
    collation: str | None = None
    """A quoted name with its schema, where it is not the type's own."""
    statistics: int | None = None
    comment: str | None = None
    hangs: tuple[Hanging, ...] = ()

    def hanging(self, *kinds: HangingKind) -> tuple[str, ...]:
        """Describe what hangs on the column, of some kinds."""
        return tuple(sorted({hanging.what for hanging in self.hangs if hanging.kind in kinds}))


class IndexFacts(Facts):
    """An index that is not the primary key's: PostgreSQL's own definition, and the columns that it reads."""

    name: str
    definition: str
    columns: tuple[str, ...]
    keys: tuple[str, ...] = ()
    """The columns that it is over, in their order; of a partial one and of one over expressions nothing."""
    unique: bool
    constraint: bool
    """It stands behind a UNIQUE constraint."""
    deferrable: bool = False
    deferred: bool = False
    primary: bool = False


class NamedIndex(Facts):
    """An index as it is found by name, of whatever table."""

    schema_name: str
    table: str
    partitioned: bool = False
    part_of: str | None = None
    """The index of a partitioned table that it belongs to."""
    constraint: str | None = None
    """The constraint that it stands behind."""
    inbound: tuple[str, ...] = ()
    """Foreign keys that stand on it, each with its table."""
    valid: bool = True
    identity: bool = False
    """Logical replication names rows by it."""
    unfit: str | None = None
    """Why logical replication cannot name rows by it."""
    columns: tuple[str, ...] = ()


class CheckFacts(Facts):
    """A check constraint of the table."""

    name: str
    expression: str
    columns: tuple[str, ...]


class ForeignFacts(Facts):
    """A foreign key of the table; `definition` is PostgreSQL's, from `FOREIGN KEY (` on."""

    name: str
    definition: str
    columns: tuple[str, ...]
    target_schema: str
    target: str
    target_columns: tuple[str, ...]
    tail: str = ""
    """What follows the columns of the target."""


class InboundFacts(Facts):
    """A foreign key that refers to the table, of itself or of another one."""

    name: str
    schema_name: str
    table: str
    kind: str
    owned: bool
    valid: bool
    columns: tuple[str, ...]
    target_columns: tuple[str, ...]
    tail: str
    narrow: bool = False
    """A column of it holds less than a bigint."""


class NumberingFacts(Facts):
    """A sequence that belongs to a column of the primary key; `identity` is PostgreSQL's letter, empty where a default calls it."""

    column: str
    identity: str
    schema_name: str
    name: str
    start: int
    increment: int
    smallest: int | None
    """Only where it is not the type's own."""
    largest: int | None
    cache: int
    cycle: bool


class KeyFacts(Facts):
    """The primary key, with what stands on it."""

    index: IndexFacts
    others: tuple[str, ...] = ()
    """What depends on the constraint itself: a view that groups by it."""
    inbound: tuple[InboundFacts, ...] = ()
    numbering: tuple[NumberingFacts, ...] = ()


class ConstraintFacts(Facts):
    """A constraint of the table; `kind` is PostgreSQL's letter for it."""

    name: str
    kind: str
    columns: tuple[str, ...]
    inbound: tuple[str, ...] = ()
    """Foreign keys that stand on it, each with its table."""
    identity: bool = False
    """It tells the rows of a published table apart."""


class TableFacts(Facts):
    """One table."""

    schema_name: str
    table: str
    kind: str
    columns: tuple[ColumnFacts, ...]
    key: tuple[str, ...]
    owner: str
    owned: bool
    inherits: bool
    persistence: str
    partition_of: str | None = None
    """The partitioned table that it belongs to."""
    partitions: int = 0
    """How many tables there are under it, at all levels."""
    odd_partitions: tuple[str, ...] = ()
    """Those that are no tables: foreign ones."""
    partition_key: tuple[str, ...] = ()
    """The columns that decide in which partition a row belongs, at all levels."""
    late_keys: bool = True
    """A foreign key can be added NOT VALID; to a partitioned table from PostgreSQL 18 on."""
    hides_rows: bool = False
    """Row level security is forced on the owner, and the worker's role cannot get past it."""
    rows: float
    pages: int
    indexes: tuple[IndexFacts, ...] = ()
    primary: KeyFacts | None = None
    checks: tuple[CheckFacts, ...] = ()
    foreign: tuple[ForeignFacts, ...] = ()
    constraints: tuple[ConstraintFacts, ...] = ()
    constraint_names: tuple[str, ...] = ()
    """Names of constraints and indexes that are taken in the table's schema or on the table."""
    user_before_triggers: tuple[str, ...] = ()
    user_update_triggers: tuple[str, ...] = ()
    user_triggers: tuple[str, ...] = ()
    replica_identity: Identity = "default"
    identity_index: str | None = None
    column_grants: tuple[tuple[str, str, str], ...] = ()
    """Column, grantee (empty for everybody) and privilege."""

    @property
    def all_indexes(self) -> tuple[IndexFacts, ...]:
        """Every index, the primary key's as well."""
        return (*self.indexes, self.primary.index) if self.primary else self.indexes

    def column(self, name: str) -> ColumnFacts | None:
        """Find a column by name."""
        return next((column for column in self.columns if column.name == name), None)

    def constraint(self, name: str) -> ConstraintFacts | None:
        """Find a constraint by name."""
        return next((each for each in self.constraints if each.name == name), None)
