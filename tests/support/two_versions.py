"""A table with two version schemas whose columns differ in type, and the paths that lead to them: what adapters are tried on."""

import psycopg

from pgduet.routing import Path

OLD = Path("1", "public_v1, public", is_new=False, epoch=1)
NEW = Path("2", "public_v2, public", is_new=True, epoch=2)
TO_AND_FRO = [OLD, NEW] * 6
"""Often enough for every driver to prepare what it sees again and again."""
STARS = {OLD.version: 4, NEW.version: "****"}
READ = "SELECT stars FROM reviews WHERE id = 7"
DEFAULT = '"$user", public'

SCHEMA = """
CREATE TABLE public.reviews (id int PRIMARY KEY, stars int NOT NULL, rating text NOT NULL);
INSERT INTO public.reviews SELECT id, 4, '****' FROM generate_series(1, 10) id;
CREATE SCHEMA public_v1;
CREATE VIEW public_v1.reviews AS SELECT id, stars FROM public.reviews;
CREATE SCHEMA public_v2;
CREATE VIEW public_v2.reviews AS SELECT id, rating AS stars FROM public.reviews;
"""
CHANGED = """
DROP VIEW public_v1.reviews;
CREATE VIEW public_v1.reviews AS SELECT id, stars::bigint AS stars FROM public.reviews;
"""
"""Makes what was prepared on the old version stale, as no phase of a migration should."""


def build(dsn: str) -> str:
    """Give a database both versions."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(SCHEMA)
    return dsn


def change(dsn: str) -> None:
    """Give the old version's column another type."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(CHANGED)
