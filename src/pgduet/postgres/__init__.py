"""Everything that talks to PostgreSQL: sessions, lock-safe execution, the catalogue, expressions, page ranges."""
