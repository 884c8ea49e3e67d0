"""Static SQL, kept in `.sql` files where SQL is read, cut into named blocks.

A block starts at a line `-- name: xyz` and runs to the next such line; what stands before the first one is commentary.
Files are package data, read once. Blocks are sent as they stand: parameters are psycopg's `%(name)s`, identifiers come
from composition.
"""

import functools
import re
from importlib import resources

from psycopg.sql import SQL

__all__ = ["block", "load", "text"]

_HEADING = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)


@functools.cache
def load(name: str) -> dict[str, str]:
    """Read `<name>.sql` and give its blocks by name, in the file's order."""
    content = resources.files(__name__).joinpath(f"{name}.sql").read_text("utf-8")
    parts = _HEADING.split(content)[1:]
    names, bodies = parts[::2], [body.strip() for body in parts[1::2]]
    if len(set(names)) != len(names):
        message = f"{name}.sql names a block twice"
        raise ValueError(message)
    return dict(zip(names, bodies, strict=True))


def text(file: str, name: str) -> str:
    """Give one block as text; KeyError when the file has no such block."""
    return load(file)[name]


def block(file: str, name: str) -> SQL:
    """Give one block as a composable statement."""
    return SQL(text(file, name))
