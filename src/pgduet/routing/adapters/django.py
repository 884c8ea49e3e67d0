"""Django: a request reads one version, in atomic blocks and outside of them, or by the alias of a database.

Four parts, to be combined:

- `routed(path)`: one atomic block with a version, on any backend for PostgreSQL;
- `following(path)`: a version for all that runs within, in a context variable; `RoutedRequests` is a middleware that
  does this for each request;
- the backend `pgduet.routing.adapters.django_backend` as a database's `ENGINE` obeys `following` by `SET LOCAL`,
  behind any pooler;
- `VersionAliases` in `DATABASE_ROUTERS` obeys it by the database's alias: one alias for each version, with a role of
  its own, and Django's own backend.

Limits: what a streaming response reads while it is sent comes after the middleware has ended.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pgduet.routing.adapters.extras import missing
from pgduet.routing.adapters.statements import in_transaction, set_local
from pgduet.routing.model import BASE_TABLES, NotRoutable, Path

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.db import DEFAULT_DB_ALIAS, connections, transaction
except ImportError as error:
    raise missing("django", error) from error

_PATHS: ContextVar[Mapping[str | None, Path] | None] = ContextVar("pgduet_paths", default=None)
"""Paths by alias; None: all others."""


def current(using: str = DEFAULT_DB_ALIAS) -> Path:
    """Give the path that a database follows here; `BASE_TABLES` where it follows none."""
    paths = _PATHS.get()
    return (paths.get(using) or paths.get(None, BASE_TABLES)) if paths else BASE_TABLES


@contextmanager
def following(path: Path, using: str | None = None) -> Iterator[None]:
    """Have what runs within follow a path: on the backend of this package, or through `VersionAliases`.

    Name the alias of the migration's database where there are several; else all follow it.
    """
    token = _PATHS.set({None: path} if using is None else {**(_PATHS.get() or {}), using: path})
    try:
        yield
    finally:
        _PATHS.reset(token)


def prepare_nothing(connection: Any) -> None:
    """Have the driver prepare nothing from here on: what it prepared under one search_path fails under another."""
    if hasattr(connection.connection, "prepare_threshold"):
        connection.connection.prepare_threshold = None


@contextmanager
def routed(path: Path, using: str = DEFAULT_DB_ALIAS) -> Iterator[None]:
    """Open an atomic block that reads and writes the version of a path; it must be the outermost one.

    Raises:
        NotRoutable: there is an atomic block around it, or a transaction.
    """
    connection = connections[using]
    if connection.in_atomic_block or not connection.get_autocommit():
        raise in_transaction()
    with following(path, using), transaction.atomic(using=using):
        statement = set_local(path)
        if statement is not None and not getattr(connection, "follows_paths", False):
            prepare_nothing(connection)
            with connection.cursor() as cursor:
                cursor.execute(statement)
        yield


class RoutedRequests:
    """A middleware: each request follows one path. Subclass it and say which, and of several databases for which (`using`)."""

    sync_capable = True
    async_capable = True
    using: str | None = None

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def path(self, request: Any) -> Path:
        """Decide for a request, without I/O: `router.path(NAME, key of the request)`."""
        raise NotImplementedError

    def __call__(self, request: Any) -> Any:
        """Answer a request."""
        if self._is_async:
            return self._answer(request)
        with following(self.path(request), self.using):
            return self._get_response(request)

    async def _answer(self, request: Any) -> Any:
        answer: Awaitable[Any]
        with following(self.path(request), self.using):
            answer = self._get_response(request)
            return await answer


class VersionAliases:
    """A database router: all that follows a path goes to the alias of its version.

    `transaction.atomic()` asks no router: name the alias there, `atomic(using=aliases.alias())`.
    """

    def __init__(self, aliases: Mapping[str, str], default: str = DEFAULT_DB_ALIAS) -> None:
        self._aliases = dict(aliases)
        self._default = default

    def alias(self) -> str:
        """Give the alias of the version that is followed here.

        Raises:
            NotRoutable: there is none for it. The default one would answer by another version.
        """
        version = current(self._default).version
        if version is None:
            return self._default
        if version not in self._aliases:
            message = f"There is no alias for the version {version}."
            raise NotRoutable(message)
        return self._aliases[version]

    def db_for_read(self, model: Any, **hints: Any) -> str:
        """Say where to read."""
        return self.alias()

    def db_for_write(self, model: Any, **hints: Any) -> str:
        """Say where to write."""
        return self.alias()

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool | None:
        """Allow relations between rows that were read by different aliases: it is one database."""
        known = {self._default, *self._aliases.values()}
        return True if {one._state.db, other._state.db} <= known else None  # noqa: SLF001

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Keep `migrate` to the default alias."""
        return False if db in set(self._aliases.values()) - {self._default} else None
