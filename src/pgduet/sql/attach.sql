-- A table becomes the first partition of a parent that is put above it (ADR 31).

-- name: create_parent
-- Empty, and nobody's yet. Indexes, foreign keys and triggers come at contract; checks must be there when it is attached.
CREATE TABLE {parent} (LIKE {relation} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING COMMENTS)
  PARTITION BY {by}

-- name: tablespace
ALTER TABLE {relation} SET TABLESPACE {name}

-- name: grant
GRANT {right} ON {relation} TO {role} {option}

-- name: grant_column
GRANT {right} ({column}) ON {relation} TO {role} {option}

-- name: revoke
REVOKE {right} ON {relation} FROM {role}

-- name: revoke_column
REVOKE {right} ({column}) ON {relation} FROM {role}

-- name: parent_key
-- Not a primary key yet: the table below has another one until contract.
CREATE UNIQUE INDEX {index} ON {parent} ({columns})

-- name: build_key
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {relation} ({columns})

-- name: drop_key
DROP INDEX CONCURRENTLY IF EXISTS {index}

-- name: drop_index
DROP INDEX {index}

-- name: drop_parent
DROP TABLE IF EXISTS {parent}

-- name: attach_all
-- As the default partition, and the only one: whatever either version writes belongs in it.
ALTER TABLE {parent} ATTACH PARTITION {relation} DEFAULT

-- name: attach
ALTER TABLE {parent} ATTACH PARTITION {relation} {bound}

-- name: detach
ALTER TABLE {parent} DETACH PARTITION {relation}

-- name: partition
CREATE TABLE {partition} PARTITION OF {parent} {bound}

-- name: options
ALTER TABLE {relation} SET ({options})

-- name: rename_statistics
ALTER STATISTICS {statistics} RENAME TO {name}

-- name: statistics
CREATE STATISTICS {statistics} {kinds} ON {columns} FROM {relation}

-- name: target
-- How closely a column is sampled; partitions get it as well.
ALTER TABLE {relation} ALTER COLUMN {column} SET STATISTICS {target}

-- name: not_null
ALTER TABLE {relation} ALTER COLUMN {column} SET NOT NULL

-- name: default
ALTER TABLE {relation} ALTER COLUMN {column} SET DEFAULT {value}

-- name: check
ALTER TABLE {relation} ADD CONSTRAINT {name} {definition}

-- name: replica_identity
ALTER TABLE {relation} REPLICA IDENTITY {identity}

-- name: add_check
-- What the partition's bound says, so that to attach the table reads no row.
ALTER TABLE {relation} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID

-- name: validate
ALTER TABLE {relation} VALIDATE CONSTRAINT {name}

-- name: drop_constraint
ALTER TABLE {relation} DROP CONSTRAINT {drop} {name}

-- name: primary_using
ALTER TABLE {relation} ADD CONSTRAINT {name} PRIMARY KEY USING INDEX {index}

-- name: primary
ALTER TABLE {relation} ADD CONSTRAINT {name} PRIMARY KEY ({columns})

-- name: foreign_key
ALTER TABLE {relation} ADD CONSTRAINT {name} {definition}

-- name: rename
ALTER TABLE {relation} RENAME TO {name}

-- name: rename_index
ALTER INDEX {index} RENAME TO {name}

-- name: drop_trigger
DROP TRIGGER {trigger} ON {relation}

-- name: enable_trigger
ALTER TABLE {relation} {how} TRIGGER {trigger}

-- name: owner
ALTER TABLE {relation} OWNER TO {role}

-- name: comment
COMMENT ON TABLE {relation} IS {text}

-- name: rename_sequence
ALTER SEQUENCE {sequence} RENAME TO {name}

-- name: create_sequence
CREATE SEQUENCE {sequence} AS {type} {options}

-- name: sequence_owner
ALTER SEQUENCE {sequence} OWNER TO {role}

-- name: own_sequence
ALTER SEQUENCE {sequence} OWNED BY {relation}.{column}

-- name: grant_sequence
-- An identity asks for no right on its sequence, a default does.
GRANT USAGE ON SEQUENCE {sequence} TO {role}

-- name: grant_on_sequence
GRANT {right} ON SEQUENCE {relation} TO {role} {option}

-- name: go_on
-- Nobody inserts meanwhile: the table is locked.
SELECT setval({new}::regclass, s.last_value, s.is_called) FROM {sequence} AS s

-- name: drop_sequence
DROP SEQUENCE {sequence}

-- name: drop_identity
ALTER TABLE {relation} ALTER COLUMN {column} DROP IDENTITY

-- name: add_identity
ALTER TABLE {relation} ALTER COLUMN {column} ADD GENERATED {how} AS IDENTITY (SEQUENCE NAME {sequence} {options})

-- name: number_by
ALTER TABLE {relation} ALTER COLUMN {column} SET DEFAULT nextval({sequence}::regclass)

-- name: drop_default
ALTER TABLE {relation} ALTER COLUMN {column} DROP DEFAULT

-- name: probe_table
CREATE TEMPORARY TABLE pgduet_parent (LIKE {relation}) PARTITION BY {by}

-- name: probe_partition
CREATE TEMPORARY TABLE {partition} PARTITION OF pg_temp.pgduet_parent {bound}

-- name: probed
SELECT pg_get_partition_constraintdef({partition}::regclass) AS condition

-- name: outside
-- Keys of rows that lie beyond: a few of them.
SELECT {keys} FROM {relation} WHERE ({condition}) IS NOT TRUE LIMIT 3

-- name: indexes
-- Indexes of a table but for its primary key's and ours; read with an empty search_path.
SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = %(oid)s::oid AND NOT i.indisprimary AND c.relname NOT LIKE '\_pgduet%%' ORDER BY c.relname

-- name: grants
-- Who may do what with a table, and with columns of it; the empty name stands for everybody.
SELECT NULL AS column, CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END AS grantee, x.privilege_type::text AS right,
       bool_or(x.is_grantable) AS passes_on
  FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x WHERE c.oid = %(oid)s::oid GROUP BY x.grantee, x.privilege_type
UNION ALL
SELECT a.attname::text, CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END, x.privilege_type::text, bool_or(x.is_grantable)
  FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped
 GROUP BY a.attname, x.grantee, x.privilege_type
ORDER BY 2, 1 NULLS FIRST, 3

-- name: storage
-- Where and how a table is stored, as a later partition of it should be.
SELECT s.spcname AS tablespace,
       (SELECT string_agg(format('%%s%%I = %%L', o.prefix, o.option_name, o.option_value), ', ' ORDER BY o.prefix, o.option_name)
          FROM (SELECT '' AS prefix, * FROM pg_options_to_table(c.reloptions) UNION ALL
                SELECT 'toast.', * FROM pg_options_to_table((SELECT reloptions FROM pg_class WHERE oid = c.reltoastrelid))) o) AS options
  FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE c.oid = %(oid)s::oid

-- name: statistics_objects
-- Extended statistics; over one expression alone they are of no kind that could be named.
SELECT n.nspname AS schema_name, x.stxname AS name, pg_get_statisticsobjdef_columns(x.oid) AS columns,
       (SELECT '(' || string_agg(CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' WHEN 'm' THEN 'mcv' END, ', ') || ')'
          FROM unnest(x.stxkind) k WHERE k <> 'e') AS kinds
  FROM pg_statistic_ext x JOIN pg_namespace n ON n.oid = x.stxnamespace WHERE x.stxrelid = %(oid)s::oid ORDER BY n.nspname, x.stxname

-- name: changed
-- What a table has by now that its parent was not given: where the two differ, column by column.
SELECT a.attname AS column, a.attnotnull AND NOT b.attnotnull AS filled, pg_get_expr(d.adbin, d.adrelid) AS default,
       a.attgenerated = '' AND pg_get_expr(d.adbin, d.adrelid) IS DISTINCT FROM pg_get_expr(e.adbin, e.adrelid) AS other_default,
       CASE WHEN a.attstattarget >= 0 THEN a.attstattarget::int END AS target, col_description(a.attrelid, a.attnum) AS comment,
       col_description(a.attrelid, a.attnum) IS DISTINCT FROM col_description(b.attrelid, b.attnum) AS other_comment
  FROM pg_attribute a JOIN pg_attribute b ON b.attrelid = %(parent)s::oid AND b.attname = a.attname
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum LEFT JOIN pg_attrdef e ON e.adrelid = b.attrelid AND e.adnum = b.attnum
 WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum

-- name: checks
-- Checks that the parent was not given.
SELECT k.conname AS name, pg_get_constraintdef(k.oid) AS definition FROM pg_constraint k
 WHERE k.conrelid = %(oid)s::oid AND k.contype = 'c' AND k.coninhcount = 0 AND NOT starts_with(k.conname, '_pgduet_') ORDER BY k.conname

-- name: foreign_targets
SELECT DISTINCT n.nspname AS schema, c.relname AS table FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE k.conrelid = %(oid)s::oid AND k.contype = 'f' ORDER BY 1, 2

-- name: numbering
SELECT a.attname AS column, a.attidentity::text AS identity, n.nspname AS schema_name, s.relname AS name, format_type(q.seqtypid, NULL) AS type,
       format('INCREMENT BY %%s MINVALUE %%s MAXVALUE %%s START WITH %%s CACHE %%s %%s', q.seqincrement, q.seqmin, q.seqmax, q.seqstart,
         q.seqcache, CASE WHEN q.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END) AS options,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('column', NULL, 'grantee', CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee) END,
                 'right', x.privilege_type, 'passes_on', x.is_grantable) ORDER BY x.grantee, x.privilege_type), '[]')
          FROM aclexplode(s.relacl) x) AS grants
  FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_sequence q ON q.seqrelid = s.oid JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s::oid AND d.deptype IN ('a', 'i')
 ORDER BY a.attnum

-- name: in_the_way
-- What the table has that a parent above it, or its partitions, could not have or would not be given; `parent` is ours, once there is one.
WITH t AS (SELECT c.* FROM pg_class c WHERE c.oid = %(oid)s::oid)
SELECT 'is not an ordinary, permanent table of its own' AS why, relname::text AS what FROM t
 WHERE relkind <> 'r' OR relpersistence <> 'p' OR reloftype <> 0
    OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = t.oid AND inhparent IS DISTINCT FROM to_regclass(%(parent)s)::oid OR inhparent = t.oid)
UNION ALL SELECT 'has row level security', relname::text FROM t WHERE relrowsecurity
UNION ALL SELECT 'can be empty in the column by which the rows are spread', attname::text FROM t JOIN pg_attribute a ON a.attrelid = t.oid
 WHERE a.attname = ANY (%(spread)s::text[]) AND NOT a.attnotnull
UNION ALL SELECT 'computes the column by which the rows are spread', attname::text FROM t JOIN pg_attribute a ON a.attrelid = t.oid
 WHERE a.attname = ANY (%(spread)s::text[]) AND a.attgenerated <> ''
UNION ALL SELECT 'is referred to by a foreign key', k.conname::text FROM t JOIN pg_constraint k ON k.confrelid = t.oid AND k.contype = 'f'
UNION ALL SELECT 'has a foreign key that is not validated', k.conname::text FROM t JOIN pg_constraint k ON k.conrelid = t.oid
 WHERE k.contype = 'f' AND NOT k.convalidated
UNION ALL SELECT 'has a check that is not inherited', k.conname::text FROM t JOIN pg_constraint k ON k.conrelid = t.oid
 WHERE k.contype = 'c' AND k.connoinherit
UNION ALL SELECT 'has a check that is not validated', k.conname::text FROM t JOIN pg_constraint k ON k.conrelid = t.oid
 WHERE k.contype = 'c' AND NOT k.convalidated AND NOT starts_with(k.conname, '_pgduet_')
UNION ALL SELECT 'has a constraint of its own kind', k.conname::text FROM t JOIN pg_constraint k ON k.conrelid = t.oid
 WHERE k.contype IN ('x', 'u', 't') OR k.contype = 'p' AND k.condeferrable
UNION ALL SELECT 'has a unique index, which would hold in each partition only', i.indexrelid::regclass::text FROM t
  JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid
 WHERE i.indisunique AND NOT i.indisprimary AND x.relname NOT LIKE '\_pgduet%%'
UNION ALL SELECT 'has an index that is not valid', i.indexrelid::regclass::text FROM t JOIN pg_index i ON i.indrelid = t.oid WHERE NOT i.indisvalid
UNION ALL SELECT 'has a trigger for statements, or with transition tables', g.tgname::text FROM t JOIN pg_trigger g ON g.tgrelid = t.oid
 WHERE NOT g.tgisinternal AND g.tgname NOT LIKE '~pgduet%%' AND (g.tgtype & 1 = 0 OR g.tgoldtable IS NOT NULL OR g.tgnewtable IS NOT NULL)
UNION ALL SELECT 'has rules', r.rulename::text FROM t JOIN pg_rewrite r ON r.ev_class = t.oid
UNION ALL SELECT 'names its rows by an index for replication', relname::text FROM t WHERE relreplident = 'i'
UNION ALL SELECT 'is published', p.pubname::text FROM t JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_publication_tables p ON p.schemaname = n.nspname AND p.tablename = t.relname
UNION ALL SELECT DISTINCT 'is read by a view of others', r.ev_class::regclass::text FROM t
  JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.classid = 'pg_rewrite'::regclass
  JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class JOIN pg_namespace n ON n.oid = v.relnamespace
 WHERE coalesce(obj_description(n.oid, 'pg_namespace'), '') NOT LIKE 'pgduet version %%'
ORDER BY why, what

-- name: replicates
SELECT relreplident::text AS identity FROM pg_class WHERE oid = %(oid)s::oid

-- name: before_functions
-- Functions of the user's own BEFORE ROW triggers, with their source; those in C have none that can be read.
SELECT DISTINCT g.tgname AS trigger, p.prosrc AS source
  FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_language l ON l.oid = p.prolang
 WHERE g.tgrelid = to_regclass(%(relation)s) AND NOT g.tgisinternal AND g.tgtype & 3 = 3 AND g.tgtype & 20 <> 0
   AND g.tgname NOT LIKE '~pgduet%%' AND g.tgname NOT LIKE '!pgduet%%' AND l.lanname NOT IN ('c', 'internal')
 ORDER BY 1

-- name: under
-- Whether a table is under a parent.
SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(%(relation)s) AND inhparent = to_regclass(%(parent)s)) AS under

-- name: taken
-- Which of these names relations of a schema have.
SELECT c.relname::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = ANY (%(names)s::text[]) ORDER BY 1

-- name: is_bound
SELECT convalidated AS valid FROM pg_constraint WHERE conrelid = to_regclass(%(relation)s) AND conname = %(name)s
