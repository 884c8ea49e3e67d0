"""Who may insert a key, while rows have a unique index for each version's form of it.

`INSERT … ON CONFLICT` is safe among concurrent clients for the index that it names; a second unique index that refuses the same row
raises 23505 instead. So before a row is inserted a trigger sees to it that the statement will find the row that is there, or be
alone with the key. Three things were measured to be needed (ADR 27):

- A claim on a key that is absent, which the next client waits for. It is a row of a table: a transaction makes any number.
- A lock on a row that is there, or it could be deleted between the trigger and the statement's own look.
- For a statement that may update, the lock that it will take anyway: PostgreSQL's own look can miss a row that is being updated.

Statement triggers say which kind of statement it is. Limit: `ON CONFLICT (id) DO NOTHING` of a row that others update at
that moment can still meet that miss; to lock such rows would have clients wait for each other that never did.
"""

from dataclasses import dataclass

from psycopg import sql

from pgduet.operations.design import Design, TableDesign
from pgduet.operations.names import routine_name, trigger_name
from pgduet.operations.rekey import concerns
from pgduet.operations.statement import Lock, Query, Statement, identifiers
from pgduet.sql import block

_SAYS = ("say_1", "say_2")
"""The triggers that announce a statement fire before all others, by their names."""
_CLAIMS = "key"
"""The one that claims a row's key fires after that which maps an inserted row."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A table whose keys are claimed; `uniquely` are the columns of all its unique indexes that both versions insert by."""

    plan: str
    schema_name: str
    table: str
    key: tuple[str, ...]
    uniquely: tuple[str, ...]
    hashed: bool = False
    """The key is no whole number, which would be its own hash."""

    @property
    def relation(self) -> sql.Identifier:
        """Its quoted name."""
        return sql.Identifier(self.schema_name, self.table)

    @property
    def label(self) -> str:
        """Its quoted name as text."""
        return self.relation.as_string(None)

    def routine(self, kind: str) -> sql.Identifier:
        """Name one of its functions, or what keeps its claims."""
        return sql.Identifier("pgduet", routine_name(self.plan, kind, self.schema_name, self.table))

    def functions(self) -> list[Statement]:
        """Create what keeps claims, and what makes them."""
        names = [sql.Identifier(name) for name in self.key]
        same = sql.SQL(" AND ").join(sql.SQL("t.{0} = NEW.{0}").format(name) for name in names)
        listed = sql.SQL(", ").join(sql.SQL("NEW.{}").format(name) for name in names)
        key = sql.SQL("hash_record_extended(ROW({}), 0)").format(listed) if self.hashed else listed
        claims = self.routine("claims")
        claim = block("rekey", "claim_body").format(relation=self.relation, same=same, claims=claims, key=key)
        return [
            Statement(block("rekey", "claims").format(claims=claims), f"claims on keys of {self.label}"),
            self._function("claim", block("rekey", "claim"), claim),
            self._function("say", block("sync", "function"), block("rekey", "say_body")),
        ]

    def triggers(self) -> list[Statement]:
        """Create the triggers."""
        query = block("sync", "trigger").format(
            **self._on(self.relation, _CLAIMS), events=sql.SQL("INSERT"), function=self.routine("claim")
        )
        return [*self._made(self.relation, _CLAIMS, query), *self.saying(self.relation)]

    def saying(self, relation: sql.Identifier) -> list[Statement]:
        """Have statements announced that name a relation: this table, or a parent above it."""
        both, of_key = sql.SQL("INSERT OR UPDATE"), sql.SQL("UPDATE OF {}").format(identifiers(self.uniquely))
        made = []
        for kind, events, what in zip(_SAYS, (both, of_key), (sql.SQL(""), sql.Literal("UPDATE KEY")), strict=True):
            parts = {**self._on(relation, kind), "function": self.routine("say"), "arguments": what}
            made += self._made(relation, kind, block("rekey", "say_trigger").format(events=events, **parts))
        return made

    def untriggers(self) -> list[Statement]:
        """Drop the triggers."""
        return [self._dropped(self.relation, kind) for kind in (_CLAIMS, *_SAYS)]

    def unsaying(self, relation: sql.Identifier) -> list[Statement]:
        """Drop those of another relation."""
        return [self._dropped(relation, kind) for kind in _SAYS]

    def drops(self) -> list[Statement]:
        """Drop what `functions` created."""
        gone = [block("sync", "drop_function").format(function=self.routine(kind)) for kind in ("claim", "say")]
        gone.append(block("rekey", "drop_claims").format(claims=self.routine("claims")))
        return [Statement(query, f"drop claims of {self.label}") for query in gone]

    def _function(self, kind: str, create: sql.SQL, body: sql.Composable) -> Statement:
        query = create.format(function=self.routine(kind), body=sql.Literal(body.as_string(None)))
        return Statement(query, f"{kind} of {self.label}")

    def _on(self, relation: sql.Identifier, kind: str) -> dict[str, sql.Composable]:
        return {"trigger": sql.Identifier(trigger_name(self.plan, kind)), "relation": relation}

    def _made(self, relation: sql.Identifier, kind: str, query: Query) -> list[Statement]:
        label = relation.as_string(None)
        enable = block("sync", "enable_trigger").format(**self._on(relation, kind))
        summary = f"trigger {kind} of {label}"
        return [
            Statement(query, summary, Lock.SHARE_ROW_EXCLUSIVE, label),
            Statement(enable, f"{summary}, always", Lock.SHARE_ROW_EXCLUSIVE, label),
        ]

    def _dropped(self, relation: sql.Identifier, kind: str) -> Statement:
        label = relation.as_string(None)
        drop = block("sync", "drop_trigger").format(**self._on(relation, kind))
        return Statement(drop, f"drop {kind} of {label}", Lock.ACCESS_EXCLUSIVE, label)


def functions(design: Design, table: TableDesign) -> list[Statement]:
    """Create what keeps claims on a table whose key changes, and what makes them."""
    return _claimed(design, table).functions() if table.rekey else []


def triggers(design: Design, table: TableDesign) -> list[Statement]:
    """Create the triggers."""
    return _claimed(design, table).triggers() if table.rekey else []


def untriggers(design: Design, table: TableDesign) -> list[Statement]:
    """Drop the triggers."""
    return _claimed(design, table).untriggers() if table.rekey else []


def drops(design: Design, table: TableDesign) -> list[Statement]:
    """Drop what `functions` created."""
    return _claimed(design, table).drops() if table.rekey else []


def _claimed(design: Design, table: TableDesign) -> Claimed:
    own = [*table.key, *(new.physical for m in table.mappings if concerns(table, m) for new in m.columns)]
    return Claimed(design.name, table.schema_name, table.table, table.key, tuple(own), hashed=len(table.key) > 1)
