-- PostgreSQL parses a plan's expressions in a view that is never kept, and says what it understood.

-- name: view
CREATE TEMPORARY VIEW _pgduet_probe AS SELECT

-- name: parsed
SELECT pg_get_viewdef(c.oid) AS definition, c.relnatts AS outputs, r.ev_action::text AS tree,
       (SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = c.oid AND attnum = 1) AS type
  FROM pg_class c JOIN pg_rewrite r ON r.ev_class = c.oid
 WHERE c.relname = '_pgduet_probe' AND c.relnamespace = pg_my_temp_schema()

-- name: functions
SELECT p.oid, p.oid::regprocedure::text AS name, p.provolatile::text AS volatility, n.nspname = 'pg_catalog' AS built_in, p.proname AS short
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.oid = ANY (%(functions)s::oid[])
    OR p.oid IN (SELECT oprcode FROM pg_operator WHERE oid = ANY (%(operators)s::oid[]))

-- name: settings_matter
-- Types whose text depends on settings, such as dates on DateStyle: a cast by text of one of them is not immutable.
SELECT EXISTS (SELECT FROM pg_type t JOIN pg_proc p ON p.oid IN (t.typinput, t.typoutput)
                WHERE t.oid = ANY (%(types)s::oid[]) AND p.provolatile <> 'i') AS yes
