"""A statement that is composed once and runs often, each time with other values.

Mechanism: what stays the same is rendered at once and kept as pieces of text, with a place between them for each `blank`.
Rendering a plan's expressions anew for each batch takes more of the worker's processor time than all else that the batch does
there. Literals and roles stay parts of their own, since traces do not show them.
"""

from collections.abc import Iterator

from psycopg import sql

from pgduet.operations.statement import Query, Role, trusted


class _Blank(sql.Placeholder):
    """A value that is left open."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def blank(name: str) -> sql.Composable:
    """Leave a value open."""
    return _Blank(name)


class Template:
    """A statement with blanks."""

    def __init__(self, query: Query) -> None:
        """Render all but the blanks, literals and roles."""
        self.parts: list[sql.Composable] = []
        text = ""
        for part in _flat(query):
            if isinstance(part, sql.Literal | Role | _Blank):
                self.parts += [trusted(text), part]
                text = ""
            else:
                text += part.as_string()
        self.parts.append(trusted(text))

    def filled(self, **values: object) -> sql.Composed:
        """Give the statement with its values.

        Raises:
            KeyError: a blank has no value.
        """
        return sql.Composed(
            [sql.Literal(values[part.name]) if isinstance(part, _Blank) else part for part in self.parts]
        )


def _flat(query: sql.Composable) -> Iterator[sql.Composable]:
    """Go through the parts of parts."""
    if isinstance(query, sql.Composed):
        for part in query:
            yield from _flat(part)
    else:
        yield query
