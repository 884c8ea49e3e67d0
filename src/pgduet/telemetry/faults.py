"""How telemetry names an error: by its type and its code. Its text may hold a row's key or values, and stays out."""

import traceback

from pgduet.errors import PgduetError


def kind_of(error: BaseException) -> str:
    """Name an error's class; for Temporal's wrapping of one (`ApplicationError`), the class that it stands for."""
    stands_for = getattr(error, "type", None)
    return stands_for if isinstance(stands_for, str) else type(error).__name__


def code_of(error: BaseException) -> str:
    """Give our code (`PD-2002`) or PostgreSQL's (`22P02`); empty where there is none."""
    if isinstance(error, PgduetError):
        return error.code
    facts = next(iter(getattr(error, "details", None) or ()), None)
    found = facts.get("code") if isinstance(facts, dict) else getattr(error, "sqlstate", None)
    return str(found or "")


def told(error: BaseException) -> str:
    """Write an error as a log line may show it."""
    return f"{kind_of(error)} {code_of(error)}".rstrip()


def traced_back(error: BaseException | None) -> str:
    """Write a traceback, causes first, with each error's type and code in place of its text."""
    parts: list[str] = []
    while error is not None:
        parts.append("".join(traceback.format_tb(error.__traceback__)) + told(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(reversed(parts))
