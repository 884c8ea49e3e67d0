-- Columns in the making: added empty and unbound, bound at cutover, given their own names at contract.

-- name: add
ALTER TABLE {relation} ADD COLUMN IF NOT EXISTS {column} {type}

-- name: add_begun
-- Rows that are there begin with a value, without being touched; the default goes in the same transaction.
ALTER TABLE {relation} ADD COLUMN IF NOT EXISTS {column} {type} DEFAULT {value}

-- name: add_marker
ALTER TABLE {relation} ADD COLUMN IF NOT EXISTS {column} smallint

-- name: drop
ALTER TABLE {relation} DROP COLUMN IF EXISTS {column}

-- name: comment
COMMENT ON COLUMN {relation}.{column} IS {text}

-- name: check_filled
ALTER TABLE {relation} ADD CONSTRAINT {constraint} CHECK ({column} IS NOT NULL) NOT VALID

-- name: validate
ALTER TABLE {relation} VALIDATE CONSTRAINT {constraint}

-- name: set_not_null
ALTER TABLE {relation} ALTER COLUMN {column} SET NOT NULL

-- name: drop_not_null
ALTER TABLE {relation} ALTER COLUMN {column} DROP NOT NULL

-- name: drop_constraint
ALTER TABLE {relation} DROP CONSTRAINT IF EXISTS {constraint}

-- name: set_default
ALTER TABLE {relation} ALTER COLUMN {column} SET DEFAULT {value}

-- name: drop_default
ALTER TABLE {relation} ALTER COLUMN {column} DROP DEFAULT

-- name: rename
ALTER TABLE {relation} RENAME COLUMN {column} TO {name}

-- name: rename_constraint
ALTER TABLE {relation} RENAME CONSTRAINT {constraint} TO {name}

-- name: statistics
ALTER TABLE {relation} ALTER COLUMN {column} SET STATISTICS {number}

-- name: grant
GRANT {right} ({column}) ON {relation} TO {role}

-- name: rename_table
ALTER TABLE {relation} RENAME TO {name}
