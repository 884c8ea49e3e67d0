"""Expressions of a plan, after PostgreSQL has parsed them.

The catalogue probe (`pgduet.postgres.expressions`) has PostgreSQL parse each expression in a view and deparse it with every
column behind one alias and every function behind its schema. So a column reference is found without a parser of ours, and
an expression means the same in a trigger, whatever search_path the writing client has.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql
from pydantic import BaseModel, ConfigDict

from pgduet.operations.statement import trusted

_NAME = r'("(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'


@dataclass(frozen=True, slots=True)
class Question:
    """An expression to parse: `scope` maps column names to types, `into` is the type that it must become."""

    path: tuple[str | int, ...]
    source: str
    scope: Mapping[str, str]
    into: str
    over: str
    """How messages call the row: `public.flights`."""


class Expression(BaseModel):
    """An expression over one row: `canonical` is PostgreSQL's own text, with columns as `<alias>.<name>`."""

    model_config = ConfigDict(frozen=True)

    source: str
    canonical: str
    alias: str
    immutable: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the expression reads, each once, in order of appearance."""
        return tuple(dict.fromkeys(_unquote(match[1]) for match in self._references().finditer(self.canonical)))

    def over(self, row: sql.Composable, renamed: Mapping[str, str] | None = None) -> sql.Composable:
        """Render over `row` (NEW, OLD or a table alias); `renamed` maps column names to physical ones."""
        names = renamed or {}
        parts: list[sql.Composable] = []
        end = 0
        for match in self._references().finditer(self.canonical):
            column = _unquote(match[1])
            parts += [trusted(self.canonical[end : match.start()]), row, sql.SQL(".")]
            parts.append(sql.Identifier(names.get(column, column)))
            end = match.end()
        parts.append(trusted(self.canonical[end:]))
        return sql.SQL("(") + sql.Composed(parts) + sql.SQL(")")

    def _references(self) -> re.Pattern[str]:
        return re.compile(rf"\b{re.escape(self.alias)}\.{_NAME}")


def _unquote(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
