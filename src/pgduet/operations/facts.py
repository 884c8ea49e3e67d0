"""Facts of a database's catalogue that operations need: a snapshot, read by `pgduet.postgres.catalogue`."""

from pydantic import BaseModel, ConfigDict


class ColumnFacts(BaseModel):
    """One column: its type in PostgreSQL's own spelling, and what hangs on it."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: str
    not_null: bool
    generated: bool
    in_key: bool
    exact: bool = True
    """False where its collation calls different texts equal."""
    dependents: tuple[str, ...] = ()
    """Objects that forbid dropping the column: views, policies, generated columns, foreign keys, the primary key."""
    lost_with_it: tuple[str, ...] = ()
    """Objects that go with the column: indexes and checks."""


class TableFacts(BaseModel):
    """One table."""

    model_config = ConfigDict(frozen=True)

    schema_name: str
    table: str
    kind: str
    columns: tuple[ColumnFacts, ...]
    key: tuple[str, ...]
    owner: str
    owned: bool
    inherits: bool
    persistence: str
    hides_rows: bool = False
    """Row level security is forced on the owner, and the worker's role cannot get past it."""
    rows: float
    pages: int
    user_before_triggers: tuple[str, ...] = ()
    user_update_triggers: tuple[str, ...] = ()

    def column(self, name: str) -> ColumnFacts | None:
        """Find a column by name."""
        return next((column for column in self.columns if column.name == name), None)
