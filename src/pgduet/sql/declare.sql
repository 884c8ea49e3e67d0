-- Constraints and indexes of the new version.

-- name: build
CREATE INDEX CONCURRENTLY {index} ON {relation} {definition}

-- name: build_unique
CREATE UNIQUE INDEX CONCURRENTLY {index} ON {relation} {definition}

-- name: build_only
CREATE INDEX {index} ON ONLY {relation} {definition}

-- name: build_unique_only
CREATE UNIQUE INDEX {index} ON ONLY {relation} {definition}

-- name: attach_index
ALTER INDEX {parent} ATTACH PARTITION {index}

-- name: drop_whole_index
DROP INDEX IF EXISTS {index}

-- name: index_places
-- Every partition of a table, parents first, with the index that is its part of a partitioned index.
SELECT n.nspname AS schema, c.relname AS table, p.isleaf AS leaf, pn.nspname AS parent_schema, pc.relname AS parent,
       (SELECT x.relname FROM pg_partition_tree(to_regclass(%(index)s)) t JOIN pg_class x ON x.oid = t.relid
          JOIN pg_index i ON i.indexrelid = x.oid WHERE i.indrelid = p.relid) AS index
  FROM pg_partition_tree(to_regclass(%(relation)s)) p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class pc ON pc.oid = p.parentrelid JOIN pg_namespace pn ON pn.oid = pc.relnamespace
 WHERE p.level > 0 ORDER BY p.level, n.nspname, c.relname

-- name: drop_index
DROP INDEX CONCURRENTLY IF EXISTS {index}

-- name: add
ALTER TABLE {relation} ADD CONSTRAINT {constraint} {definition} NOT VALID

-- name: add_whole
ALTER TABLE {relation} ADD CONSTRAINT {constraint} {definition}

-- name: at_most
-- What has no other limit of its own ends by itself.
SET LOCAL statement_timeout = {limit}

-- name: exclusion_words
-- An exclusion constraint of the temporary table, as PostgreSQL writes it.
SELECT pg_get_constraintdef(k.oid) AS definition, pg_get_expr(i.indpred, i.indrelid) AS predicate,
       ARRAY(SELECT pg_get_indexdef(k.conindid, n::int, false) FROM generate_series(1, i.indnkeyatts) n ORDER BY n) AS expressions,
       ARRAY(SELECT format('OPERATOR(%%I.%%s)', s.nspname, o.oprname) FROM unnest(k.conexclop) WITH ORDINALITY u(oid, place)
               JOIN pg_operator o ON o.oid = u.oid JOIN pg_namespace s ON s.oid = o.oprnamespace ORDER BY u.place) AS operators
  FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid
 WHERE k.conname = %(name)s AND k.conrelid = to_regclass('pg_temp._pgduet_shape')

-- name: unique_using
ALTER TABLE {relation} ADD CONSTRAINT {constraint} UNIQUE USING INDEX {constraint} {timing}

-- name: primary_using
ALTER TABLE {relation} ADD CONSTRAINT {constraint} PRIMARY KEY USING INDEX {constraint} {timing}

-- name: rename_index
ALTER INDEX {index} RENAME TO {name}

-- name: constraint_there
SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%(relation)s) AND conname = %(name)s) AS there

-- name: constraints_there
-- The constraints of a table, and the quoted names of what its foreign keys point to.
SELECT k.conname AS name, format('"%%s"."%%s"', replace(n.nspname, '"', '""'), replace(c.relname, '"', '""')) AS target, c.oid IS NOT NULL AS refers
  FROM pg_constraint k LEFT JOIN pg_class c ON c.oid = k.confrelid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.conrelid = to_regclass(%(relation)s)

-- name: standing_on
-- Foreign keys that stand on indexes (a constraint's has its name), each with its table.
SELECT c.relname AS name, format('%%s of %%s', f.conname, f.conrelid::regclass) AS key
  FROM pg_constraint f JOIN pg_class c ON c.oid = f.conindid
 WHERE f.contype = 'f' AND f.confrelid = to_regclass(%(relation)s) AND c.relname = ANY (%(names)s) ORDER BY 1, 2

-- name: in_the_way
-- What stays and has a name that contract gives: relations of the schema, constraints and columns of the table.
WITH mine AS (SELECT to_regclass(%(relation)s)::oid AS oid),
     old AS (SELECT a.attnum FROM pg_attribute a, mine WHERE a.attrelid = mine.oid AND a.attname = ANY (%(old_columns)s)),
     wanted AS (SELECT unnest(%(relations)s::text[]) AS name
                 UNION SELECT r.too FROM unnest(%(renamed)s::text[], %(to)s::text[]) r(name, too), mine, pg_constraint k
                        WHERE k.conrelid = mine.oid AND k.conname = r.name AND k.contype IN ('p', 'u', 'x'))
SELECT 'relation ' || c.oid::regclass AS what
  FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid, mine
 WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s) AND c.relname IN (SELECT name FROM wanted)
   AND c.relname <> ALL (%(going)s)
   AND NOT coalesce(i.indrelid = mine.oid AND EXISTS (
         SELECT FROM old WHERE old.attnum = ANY (i.indkey) OR EXISTS (
           SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refobjid = mine.oid AND d.refobjsubid = old.attnum)), false)
 UNION ALL
SELECT 'constraint ' || k.conname FROM pg_constraint k, mine
 WHERE k.conrelid = mine.oid AND k.conname = ANY (%(constraints)s) AND k.conname <> ALL (%(going)s)
   AND NOT EXISTS (SELECT FROM old WHERE old.attnum = ANY (k.conkey))
 UNION ALL
SELECT 'column ' || a.attname FROM pg_attribute a, mine
 WHERE a.attrelid = mine.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY (%(columns)s)

-- name: identity_default
ALTER TABLE {relation} REPLICA IDENTITY DEFAULT

-- name: identity_full
ALTER TABLE {relation} REPLICA IDENTITY FULL

-- name: identity_nothing
ALTER TABLE {relation} REPLICA IDENTITY NOTHING

-- name: identity_index
ALTER TABLE {relation} REPLICA IDENTITY USING INDEX {index}
