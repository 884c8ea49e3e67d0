"""What all adapters have in common: the statement that picks a version, and how to know a stale plan.

`SET LOCAL` and not `set_config`: it takes no snapshot, so `SET TRANSACTION ISOLATION LEVEL` may still follow. A
savepoint that is rolled back would take the setting with it, and one that is released would leave it behind: so it is
said once, first, in the transaction itself.

A prepared statement is planned for a search_path. Under another one PostgreSQL plans it anew, and raises 0A000
(`cached plan must not change result type`) if its columns have changed, each time, until the statement is
deallocated. Within a transaction that error has aborted everything, so a statement cannot be repeated, only the whole
transaction.
"""

from psycopg import sql

from pgduet.routing.model import NotRoutable, Path


def set_local(path: Path) -> str | None:
    """Give the statement that a transaction begins with; None where it is to leave the search_path alone."""
    if path.search_path is None:
        return None
    return sql.SQL("SET LOCAL search_path TO {}").format(sql.SQL(path.search_path)).as_string()


def is_stale(error: BaseException) -> bool:
    """Tell whether a plan was stale: by the function of PostgreSQL that raised it, since messages are translated.

    Knows the errors of psycopg, psycopg2, asyncpg, and of SQLAlchemy and Django around them.
    """
    cause: BaseException | None = error
    while cause is not None:
        raised_in = getattr(getattr(cause, "diag", None), "source_function", None)
        if "RevalidateCachedQuery" in {raised_in, getattr(cause, "server_source_function", None)}:
            return True
        inner = getattr(cause, "orig", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return False


def in_transaction() -> NotRoutable:
    """Give the error for a transaction that has begun already."""
    return NotRoutable(
        "The connection is in a transaction already, which has its version.",
        hint="Begin the transaction by the adapter: a transaction reads one version.",
    )


def in_autocommit() -> NotRoutable:
    """Give the error for a connection that has no transactions."""
    return NotRoutable(
        "The connection is in autocommit mode: there is no transaction that could have a version.",
        hint="Use a transaction, or a role with a search_path.",
    )
