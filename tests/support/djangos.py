"""Django within the tests: configured once a process, its databases exchanged for each test."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.db import connections
from psycopg.conninfo import conninfo_to_dict

OURS = "pgduet.routing.adapters.django_backend"
DJANGO_S = "django.db.backends.postgresql"

if not settings.configured:
    settings.configure(USE_TZ=True, INSTALLED_APPS=[])
    django.setup()


def database(dsn: str, engine: str = OURS, **options: Any) -> dict[str, Any]:
    """Describe a database as settings do."""
    found = conninfo_to_dict(dsn)
    where = {"NAME": found["dbname"], "USER": found["user"], "HOST": found["host"], "PORT": found["port"]}
    return {"ENGINE": engine, **where, "OPTIONS": options}


@contextmanager
def databases(wanted: Mapping[str, dict[str, Any]]) -> Iterator[None]:
    """Have these databases within; connections of other threads are theirs to close."""
    known = connections.settings
    connections.settings = connections.configure_settings(dict(wanted))
    try:
        yield
    finally:
        forget()
        connections.settings = known


def forget() -> None:
    """Close this thread's connections, and have the next use of an alias connect by the settings as they are then."""
    for alias in connections.settings:
        if hasattr(connections._connections, alias):
            connections[alias].close()
            del connections[alias]
