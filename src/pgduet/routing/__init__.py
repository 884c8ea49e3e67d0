"""The client library: which version of the schema a service's reads go to, decided without I/O.

Stands alone: it needs psycopg and nothing of the engine.
"""

from pgduet.routing.aio import AsyncRouter
from pgduet.routing.decision import bucket, seed
from pgduet.routing.model import BASE_TABLES, ExtraMissing, NotRoutable, Path, Route, RouteUnavailable, Stage, stage_of
from pgduet.routing.overrides import Overrides
from pgduet.routing.router import Router

__all__ = [
    "BASE_TABLES",
    "AsyncRouter",
    "ExtraMissing",
    "NotRoutable",
    "Overrides",
    "Path",
    "Route",
    "RouteUnavailable",
    "Router",
    "Stage",
    "bucket",
    "seed",
    "stage_of",
]
