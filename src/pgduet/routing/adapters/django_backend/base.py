"""Django's backend for PostgreSQL, with `SET LOCAL search_path` at the start of each transaction.

An outermost atomic block gets its version when it begins, before any savepoint. A statement outside of one gets an
atomic block of its own: a setting of the session would leak to the next client of a pooler. Without autocommit each
transaction gets its version with its first statement. Where no path is followed, this is Django's own backend.

What goes past Django's `execute` and `executemany` (`callproc`, and the driver's `copy` and `stream`) follows a path within
atomic blocks only.

Prepared statements (`server_side_binding` with a `prepare_threshold`, off by Django's default) are put off where a path
is followed.
"""

from typing import Any

from psycopg.pq import TransactionStatus

from pgduet.routing.adapters.django import current, prepare_nothing
from pgduet.routing.adapters.extras import missing
from pgduet.routing.adapters.statements import set_local

try:
    from django.db import transaction
    from django.db.backends.postgresql import base
except ImportError as error:
    raise missing("django", error) from error


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection that follows the path of its context."""

    follows_paths = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute_wrappers.append(self._in_a_transaction)

    def set_autocommit(self, autocommit: bool, *args: Any, **kwargs: Any) -> None:
        """Begin or end manual transactions; Django begins each outermost atomic block by this."""
        super().set_autocommit(autocommit, *args, **kwargs)
        if autocommit:
            return
        try:
            self._pick_version()
        except BaseException:
            super().rollback()
            super().set_autocommit(True)
            raise

    def _in_a_transaction(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        by_hand = not self.autocommit and not (self.in_atomic_block and self.commit_on_exit)
        if by_hand and self.connection.info.transaction_status == TransactionStatus.IDLE:
            self._pick_version()
        if self.in_atomic_block or not self.autocommit or set_local(current(self.alias)) is None:
            return execute(sql, params, many, context)
        with transaction.atomic(using=self.alias):
            return execute(sql, params, many, context)

    def _pick_version(self) -> None:
        statement = set_local(current(self.alias))
        if statement is None:
            return
        prepare_nothing(self)
        with self.wrap_database_errors, self.connection.cursor() as cursor:
            cursor.execute(statement)
