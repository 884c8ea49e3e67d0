"""Expressions of a plan, after PostgreSQL has parsed them.

The catalogue probe (`pgduet.postgres.expressions`) has PostgreSQL parse each expression in a view and deparse it with every
column behind one alias and every function behind its schema. So a column reference is found without a parser of ours, and
an expression means the same in a trigger, whatever search_path the writing client has.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psycopg import sql
from pydantic import BaseModel, ConfigDict

from pgduet.operations.statement import trusted

_SIZED_TEXT = re.compile(r"(?:character varying|character|varchar|bpchar)\((\d+)\)(.*)")
_NAME = r'("(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'


@dataclass(frozen=True, slots=True)
class Question:
    """An expression to parse: `scope` maps column names to types, `into` is the type that it must become (empty: its own)."""

    path: tuple[str | int, ...]
    source: str
    scope: Mapping[str, str]
    into: str
    over: str
    """How messages call the row: `public.flights`."""
    may_change: bool = False
    """A default may give another value each time; what maps rows must not."""
    kept: bool = False
    """PostgreSQL computes it once and keeps it: it must be immutable, by what PostgreSQL knows of its functions."""
    cure: str | None = None
    """What to do where it must not, and does."""
    implied: bool = False
    """The plan leaves it out, and it means the column itself."""


class Frozen(BaseModel):
    """A value of a design: it never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Certainty(Frozen):
    """What is certain of an expression's value, whatever the row holds; nothing by default."""

    raises: bool = True
    longest: int | None = None
    """The most characters that a text can have."""
    filled: bool = False
    """It is never NULL."""
    passes_on: bool = False
    """It is NULL only where a column that it reads is."""
    types: tuple[tuple[str, str], ...] = ()
    """The columns that it reads and their types, without which nothing of it is certain."""


class Expression(Frozen):
    """An expression over one row: `canonical` is PostgreSQL's own text, with columns as `<alias>.<name>`."""

    source: str
    canonical: str
    alias: str
    immutable: bool = True
    certain: Certainty = Certainty()

    def always_becomes(self, kind: str) -> bool:
        """Tell that no row makes it raise, nor the assignment of its value to a column of a type.

        A type's size, other than a text's length, is part of the expression: it was parsed as a cast to it.
        """
        if self.certain.raises:
            return False
        if not (sized := _SIZED_TEXT.fullmatch(kind)):
            return True
        return self.certain.longest is not None and not sized[2] and self.certain.longest <= int(sized[1])

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the expression reads, each once, in order of appearance."""
        return tuple(dict.fromkeys(_unquote(match[1]) for match in self._references().finditer(self.canonical)))

    def occurrences(self, column: str) -> int:
        """Count how often a column is read."""
        return sum(_unquote(match[1]) == column for match in self._references().finditer(self.canonical))

    def over(self, row: sql.Composable, renamed: Mapping[str, str] | None = None) -> sql.Composable:
        """Render over `row` (NEW, OLD or a table alias); `renamed` maps column names to physical ones."""
        names = renamed or {}

        def column(name: str) -> sql.Composable:
            return sql.SQL("{}.{}").format(row, sql.Identifier(names.get(name, name)))

        return self._with(column)

    def alone(self, renamed: Mapping[str, str] | None = None) -> sql.Composable:
        """Render with bare column names, as a constraint of the table has them."""
        names = renamed or {}
        return self._with(lambda name: sql.Identifier(names.get(name, name)))

    def given(self, values: Mapping[str, str]) -> sql.Composable:
        """Render with PostgreSQL's own texts in the place of columns."""
        return self._with(lambda name: sql.SQL("({})").format(trusted(values[name])))

    def _with(self, column: Callable[[str], sql.Composable]) -> sql.Composable:
        parts: list[sql.Composable] = []
        end = 0
        for match in self._references().finditer(self.canonical):
            parts += [trusted(self.canonical[end : match.start()]), column(_unquote(match[1]))]
            end = match.end()
        parts.append(trusted(self.canonical[end:]))
        return sql.SQL("(") + sql.Composed(parts) + sql.SQL(")")

    def _references(self) -> re.Pattern[str]:
        return re.compile(rf"\b{re.escape(self.alias)}\.{_NAME}")


def _unquote(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
