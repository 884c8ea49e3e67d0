-- Constraints and indexes of the new version.

-- name: build
CREATE INDEX CONCURRENTLY {index} ON {relation} {definition}

-- name: build_unique
CREATE UNIQUE INDEX CONCURRENTLY {index} ON {relation} {definition}

-- name: drop_index
DROP INDEX CONCURRENTLY IF EXISTS {index}

-- name: add
ALTER TABLE {relation} ADD CONSTRAINT {constraint} {definition} NOT VALID

-- name: unique_using
ALTER TABLE {relation} ADD CONSTRAINT {constraint} UNIQUE USING INDEX {constraint} {timing}

-- name: rename_index
ALTER INDEX {index} RENAME TO {name}

-- name: index_state
-- Whether an index is there and valid; no row where it is not there.
SELECT i.indisvalid AS valid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s

-- name: constraint_there
SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%(relation)s) AND conname = %(name)s) AS there
