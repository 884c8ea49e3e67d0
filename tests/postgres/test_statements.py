"""The census reads pg_stat_statements, where it is: a role that ran a statement of the old version between two looks is seen.

On PostgreSQL 15, whose package has the extension.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support.worlds import FAST

from pgduet.local import EmbeddedPostgres
from pgduet.postgres.statements import note_statements
from pgduet.sql import block

NAME = "review-stars"
OLD = r"\mpublic_v1\M"


@pytest.fixture(scope="module")
def counting() -> Iterator[EmbeddedPostgres]:
    settings = {**FAST, "shared_preload_libraries": "pg_stat_statements"}
    with EmbeddedPostgres(version=15, settings=settings) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE SCHEMA stats; CREATE EXTENSION pg_stat_statements SCHEMA stats")
            admin.execute("CREATE SCHEMA public_v1; CREATE VIEW public_v1.reviews AS SELECT 1 AS id")
            admin.execute("CREATE ROLE export LOGIN; CREATE ROLE blind LOGIN; GRANT ALL ON SCHEMA public_v1 TO PUBLIC")
            admin.execute("GRANT SELECT ON public_v1.reviews TO PUBLIC")
            admin.execute(block("metadata", "create_metadata"))
        yield server


async def seen(server: EmbeddedPostgres) -> list[dict[str, Any]]:
    """Look, and give who has been seen at all."""
    async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True, row_factory=dict_row) as conn:
        assert await note_statements(conn, NAME, ["1"], [OLD])
        return await (await conn.execute("SELECT who, side, version, via FROM pgduet.client")).fetchall()


async def test_a_role_is_seen_that_ran_a_statement_between_two_looks(counting: EmbeddedPostgres) -> None:
    as_export = psycopg.conninfo.make_conninfo(counting.dsn(), user="export")
    statement = b"SELECT id FROM public_v1.reviews"
    with psycopg.connect(as_export, autocommit=True) as export:
        export.execute(statement)
        assert await seen(counting) == [], "what was run before the first look is history"
        assert await seen(counting) == []
        export.execute(b"SELECT 'something else'")
        assert await seen(counting) == []
        export.execute(statement)
    known = {"who": "role export", "side": "old", "version": "1", "via": "pg_stat_statements"}
    assert await seen(counting) == [known]


async def test_where_it_cannot_be_read_the_census_does_without(counting: EmbeddedPostgres, dsn: str) -> None:
    for there in (dsn, psycopg.conninfo.make_conninfo(counting.dsn(), user="blind")):
        async with await psycopg.AsyncConnection.connect(there, autocommit=True, row_factory=dict_row) as conn:
            assert not await note_statements(conn, NAME, ["1"], [OLD])
