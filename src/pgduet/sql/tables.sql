-- Tables that a version brings or takes.

-- name: create
CREATE TABLE {relation} ({parts})

-- name: comment
COMMENT ON TABLE {relation} IS {text}

-- name: grant
GRANT {rights} ON {relation} TO {role}

-- name: drop
DROP TABLE IF EXISTS {relation}

-- name: drop_constraint
ALTER TABLE {relation} DROP CONSTRAINT IF EXISTS {constraint}

-- name: rename
ALTER TABLE {relation} RENAME TO {name}

-- name: move
ALTER TABLE {relation} SET SCHEMA {schema}

-- name: columns_of
-- A table's columns as its design would name them; no row where there is no such table.
SELECT c.oid::bigint AS oid,
       (SELECT array_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)::text[] AS columns,
       obj_description(c.oid, 'pg_class') AS comment
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind = 'r'

-- name: foreign_keys_of
SELECT k.conname AS name, n.nspname AS schema, c.relname AS target
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.conrelid = %(oid)s::oid AND k.contype = 'f' ORDER BY k.conname

-- name: parts
-- Indexes and sequences of a table.
SELECT c.relname AS name FROM pg_class c
 WHERE c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = %(oid)s::oid)
    OR c.oid IN (SELECT objid FROM pg_depend WHERE refobjid = %(oid)s::oid AND classid = 'pg_class'::regclass AND deptype IN ('a', 'i')
                    AND EXISTS (SELECT FROM pg_class s WHERE s.oid = objid AND s.relkind = 'S'))

-- name: clashes
-- Those whose names the archive has already.
SELECT c.relname AS name FROM pg_class c
 WHERE (c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = %(oid)s::oid)
        OR c.oid IN (SELECT objid FROM pg_depend WHERE refobjid = %(oid)s::oid AND classid = 'pg_class'::regclass AND deptype IN ('a', 'i')
                       AND EXISTS (SELECT FROM pg_class s WHERE s.oid = objid AND s.relkind = 'S')))
   AND EXISTS (SELECT FROM pg_class o JOIN pg_namespace n ON n.oid = o.relnamespace
                WHERE n.nspname = 'pgduet_archive' AND o.relname = c.relname)

-- name: script
-- One transaction, and no statement in it can end that: transaction control cannot be executed here.
DO {body}

-- name: count
SELECT count(*) AS rows FROM {relation}

-- name: own_search_path
SELECT reset_val AS path FROM pg_settings WHERE name = 'search_path'
