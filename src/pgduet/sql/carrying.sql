-- An empty temporary table with the new columns, on which definitions are tried; always rolled back.

-- name: shape
CREATE TEMPORARY TABLE {shape} ({columns})

-- name: index
CREATE {unique}INDEX _pgduet_shape_index ON pg_temp.{shape} {definition}

-- name: rename
ALTER TABLE pg_temp.{shape} RENAME COLUMN {column} TO {name}

-- name: accepted
-- An index as PostgreSQL understood it: the columns that it reads, what its keys are (with the collation by which they are equal).
SELECT pg_get_indexdef(c.oid) AS definition, pg_get_expr(i.indpred, i.indrelid) AS predicate, NOT i.indnullsnotdistinct AS nulls_distinct,
       ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum > 0
               AND (a.attnum = ANY (i.indkey) OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                      AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum)))::text[] AS columns,
       ARRAY(SELECT '(' || pg_get_indexdef(c.oid, k.place, false) || ')'
                    || coalesce((SELECT format(' COLLATE %I.%I', n.nspname, o.collname) FROM pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace
                                  WHERE o.oid = i.indcollation[k.place - 1]), '')
               FROM generate_series(1, i.indnkeyatts) k(place) ORDER BY k.place)::text[] AS keys
  FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
 WHERE c.relname = '_pgduet_shape_index' AND c.relnamespace = pg_my_temp_schema()
