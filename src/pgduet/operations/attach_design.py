"""The design of an attach: a table that becomes the first partition of a parent above it (ADR 31).

It can be where the plan changes nothing but `partition_by` and the key, spreads by ranges of one column, and has a first partition
that begins at MINVALUE: whether all rows fit into it is the table's to say. Otherwise a shadow is made.
"""

import re

from psycopg import sql

from pgduet.operations.expressions import Frozen
from pgduet.operations.names import fit, working_name
from pgduet.operations.shadow_design import Partition
from pgduet.plan.shadow_operations import ShadowTable

_FROM_THE_BEGINNING = re.compile(
    r"\s*FOR\s+VALUES\s+FROM\s*\(\s*MINVALUE\s*\)\s+TO\s*\(.*\)\s*", re.IGNORECASE | re.DOTALL
)


class AttachDesign(Frozen):
    """A table, the parent that is put above it, and the partitions that it is to have."""

    position: int
    schema_name: str
    table: str
    parent_name: str
    """What the parent is called until contract, in the table's schema."""
    spread: str
    """The column that decides about a row's partition."""
    key: tuple[str, ...]
    """The parent's key: the table's, and the column by which it is spread."""
    named_by: tuple[str, ...]
    """The table's own key, until contract."""
    key_index: str
    """The unique index over these on the table, until contract."""
    bound_check: str
    first: Partition
    """What the table becomes at contract."""
    later: tuple[Partition, ...] = ()
    outbound: tuple[str, ...] = ()
    """The quoted names of the tables to which its foreign keys refer."""

    @property
    def relation(self) -> sql.Identifier:
        """The quoted name of the table, until contract."""
        return self.named(self.table)

    @property
    def label(self) -> str:
        """The quoted name of the table, as text."""
        return self.relation.as_string(None)

    @property
    def parent(self) -> sql.Identifier:
        """The quoted name of the parent, until contract."""
        return self.named(self.parent_name)

    @property
    def own(self) -> frozenset[str]:
        """The quoted names of what is ours in the user's schema until contract: no version shows it as a table."""
        return frozenset([self.parent.as_string(None)])

    @property
    def touched(self) -> frozenset[str]:
        """The quoted names of all tables that it changes or brings."""
        names = [self.parent_name, self.first.name, *(each.name for each in self.later)]
        return frozenset([self.label, *(self.named(name).as_string(None) for name in names)])

    @property
    def parent_index(self) -> str:
        """The parent's own index, until contract."""
        return fit(f"{self.key_index}_parent")

    def named(self, name: str) -> sql.Identifier:
        """Quote a name in the table's schema."""
        return sql.Identifier(self.schema_name, name)


def resolve(plan: str, index: int, operation: ShadowTable, key: tuple[str, ...]) -> AttachDesign | str:
    """Make the design, or say why only a shadow gives this shape; `key` is the table's primary key."""
    by = operation.partition_by
    if by is None:
        return "it is not partitioned"
    if operation.columns or operation.replaces or operation.order:
        return "its columns change, or their order"
    if by.method != "range" or len(by.columns) != 1:
        return "only by ranges of one column can all rows that are there be of one partition"
    wanted = operation.primary_key or (*key, *by.columns)
    if not key or set(wanted) != {*key, *by.columns}:
        return f"its key is to be another one than its own ({', '.join(key) or 'none'}) with `{by.columns[0]}`"
    first = next((each for each in by.partitions if _FROM_THE_BEGINNING.fullmatch(each.bound)), None)
    if first is None:
        return "no partition begins at MINVALUE, which could hold all rows that are there"
    name = operation.relation.name
    return AttachDesign(
        position=index,
        schema_name=operation.relation.schema,
        table=name,
        parent_name=working_name(plan, name),
        spread=by.columns[0],
        key=wanted,
        named_by=key,
        key_index=working_name(plan, f"{name}_key"),
        bound_check=working_name(plan, f"{name}_bound"),
        first=Partition(name=first.name, bound=first.bound),
        later=tuple(Partition(name=each.name, bound=each.bound) for each in by.partitions if each is not first),
    )
