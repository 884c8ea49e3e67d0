"""The versions of PostgreSQL on which a scenario must hold; its mutants run on the newest one."""

import pytest

VERSIONS = (15, 16, 18)

on_every_version = pytest.mark.parametrize(
    "postgres", VERSIONS, indirect=True, scope="session", ids=[f"postgresql-{version}" for version in VERSIONS]
)
"""Runs a test once on each; whatever it takes from the fixture `postgres` (`dsn`, `conn`, `stage`) is of that version."""
