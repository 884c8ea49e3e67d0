"""What refers to a primary key that changes, and what the key takes along: values of the design."""

from psycopg import sql

from pgduet.operations.constraints import ForeignKey
from pgduet.operations.expressions import Frozen


class Referring(Frozen):
    """A table that refers to another one; the plan need not be about it."""

    schema_name: str
    table: str

    @property
    def relation(self) -> sql.Identifier:
        """The quoted name of the table that refers."""
        return sql.Identifier(self.schema_name, self.table)

    @property
    def label(self) -> str:
        """The quoted name of the table that refers, as text."""
        return self.relation.as_string(None)


class Inbound(Referring):
    """A foreign key of some table to a key that changes: made anew to the key's successor, by the name that it has."""

    key: ForeignKey


class Rekey(Frozen):
    """What a primary key that changes takes along."""

    inbound: tuple[Inbound, ...] = ()
    carried: tuple[tuple[str, str, str], ...] = ()
    """Foreign keys that the plan carries over with their own columns: schema, table, name."""
    defaults: tuple[tuple[str, str], ...] = ()
    """Columns by their names in the new version, with their defaults from contract on."""

    @property
    def left(self) -> set[str]:
        """Name the foreign keys whose own columns stay as they are."""
        return {each.key.name for each in self.inbound}

    def knows(self, schema: str, table: str, name: str) -> bool:
        """Tell whether a foreign key has a successor."""
        own = ((each.schema_name, each.table, each.key.name) for each in self.inbound)
        return (schema, table, name) in {*own, *self.carried}
