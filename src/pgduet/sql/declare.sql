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

-- name: constraint_there
SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%(relation)s) AND conname = %(name)s) AS there

-- name: identity_default
ALTER TABLE {relation} REPLICA IDENTITY DEFAULT

-- name: identity_full
ALTER TABLE {relation} REPLICA IDENTITY FULL

-- name: identity_nothing
ALTER TABLE {relation} REPLICA IDENTITY NOTHING

-- name: identity_index
ALTER TABLE {relation} REPLICA IDENTITY USING INDEX {index}
