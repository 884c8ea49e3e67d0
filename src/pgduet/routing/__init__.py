"""The client library: which version of the schema a service's reads go to, decided without I/O.

Stands alone: it needs psycopg and nothing of the engine.
"""

from pgduet.routing.aio import AsyncRouter
from pgduet.routing.aio_migrator import AsyncMigrator
from pgduet.routing.comparing import Rules
from pgduet.routing.decision import bucket, seed
from pgduet.routing.migrating import Limits, hashed_key
from pgduet.routing.migrator import Migrator
from pgduet.routing.model import BASE_TABLES, ExtraMissing, NotRoutable, Path, Route, RouteUnavailable, Stage, stage_of
from pgduet.routing.overrides import Overrides
from pgduet.routing.pairing import IdempotencyUnavailable, Written
from pgduet.routing.router import Router

__all__ = [
    "BASE_TABLES",
    "AsyncMigrator",
    "AsyncRouter",
    "ExtraMissing",
    "IdempotencyUnavailable",
    "Limits",
    "Migrator",
    "NotRoutable",
    "Overrides",
    "Path",
    "Route",
    "RouteUnavailable",
    "Router",
    "Rules",
    "Stage",
    "Written",
    "bucket",
    "hashed_key",
    "seed",
    "stage_of",
]
