-- Version schemas: one view per table; what a version's clients see.

-- name: create_schema
CREATE SCHEMA IF NOT EXISTS {schema}

-- name: view
CREATE OR REPLACE VIEW {view} WITH (security_invoker = true) AS SELECT {columns} FROM {relation}

-- name: default
ALTER VIEW {view} ALTER COLUMN {column} SET DEFAULT {value}

-- name: owner
ALTER VIEW {view} OWNER TO {role}

-- name: grant
GRANT {privileges} ON {view} TO {role}

-- name: grant_column
GRANT {right} ({column}) ON {view} TO {role}

-- name: grant_usage
GRANT USAGE ON SCHEMA {schema} TO {role}

-- name: comment
COMMENT ON SCHEMA {schema} IS {text}

-- name: drop_view
DROP VIEW IF EXISTS {view}

-- name: drop_schema
DROP SCHEMA IF EXISTS {schema} RESTRICT
