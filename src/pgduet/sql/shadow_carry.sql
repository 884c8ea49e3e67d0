-- What a shadow carries over from its anchor: read from the catalogue with an empty search_path, tried on an empty temporary table,
-- given to the shadow while it is made, and to its successor at contract (ADR 28).

-- name: table
SELECT c.oid::bigint AS oid, c.oid::regclass::text AS spelled, c.relkind::text AS kind, c.relpersistence::text AS persistence, s.spcname AS tablespace, coalesce(c.reloptions, '{}') AS options,
       coalesce(t.reloptions, '{}') AS toast_options, nullif(m.amname, 'heap') AS method, c.relreplident::text AS identity,
       c.relrowsecurity AS secured, c.relforcerowsecurity AS forced, c.relacl IS NOT NULL AS granted, pg_get_userbyid(c.relowner)::text AS owner
  FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
  LEFT JOIN pg_am m ON m.oid = c.relam
 WHERE c.oid = to_regclass(%(relation)s)

-- name: columns
-- What a column has beside its type; a NOT NULL has a name of its own from PostgreSQL 18 on, and `valid` of its row is read as text.
SELECT a.attname AS name, CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text END AS storage, nullif(a.attcompression::text, '') AS compression,
       CASE WHEN a.attstattarget >= 0 THEN a.attstattarget::int END AS statistics, coalesce(a.attoptions, '{}') AS options,
       col_description(a.attrelid, a.attnum) AS comment,
       (SELECT k.conname FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey[1] = a.attnum) AS not_null,
       a.attgenerated::text AS generated,
       (SELECT format('%%I.%%I', n.nspname, o.collname) FROM pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace
         WHERE o.oid = a.attcollation AND t.typcollation <> a.attcollation) AS collation
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum

-- name: indexes
-- Every index with what its definition does not say; `definition` begins behind `ON <table> `, which is found by its length.
SELECT x.relname AS name,
       substr(pg_get_indexdef(x.oid), 1 + length(format('CREATE %%sINDEX %%I ON %%s%%s ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname,
         CASE WHEN x.relkind = 'I' THEN 'ONLY ' ELSE '' END, i.indrelid::regclass))) AS definition,
       i.indisunique AS unique, i.indisprimary AS primary, i.indisvalid AS valid, i.indisclustered AS clustered, i.indisreplident AS identity,
       k.contype::text AS constraint, coalesce(k.condeferrable, false) AS deferrable, coalesce(k.condeferred, false) AS deferred,
       NOT i.indnullsnotdistinct AS nulls_distinct, pg_get_expr(i.indpred, i.indrelid) AS predicate, s.spcname AS tablespace,
       coalesce(x.reloptions, '{}') AS options, i.indnatts > i.indnkeyatts AS includes, obj_description(x.oid, 'pg_class') AS comment,
       ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum > 0
               AND (a.attnum = ANY (i.indkey) OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                      AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum)) ORDER BY a.attnum)::text[] AS columns,
       ARRAY(SELECT a.attname FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(attnum, place) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
              WHERE u.place <= i.indnkeyatts)::text[] AS key,
       coalesce((SELECT jsonb_agg(jsonb_build_array(e.attnum, e.attstattarget) ORDER BY e.attnum) FROM pg_attribute e
         WHERE e.attrelid = x.oid AND e.attstattarget >= 0), '[]') AS targets
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid LEFT JOIN pg_tablespace s ON s.oid = x.reltablespace
  LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
 WHERE i.indrelid = %(oid)s::oid ORDER BY x.relname

-- name: statistics
SELECT n.nspname AS schema, s.stxname AS name, pg_get_userbyid(s.stxowner)::text AS owner, obj_description(s.oid, 'pg_statistic_ext') AS comment,
       s.stxstattarget::int AS target, w.definition,
       ARRAY(SELECT DISTINCT a.attname FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid AND d.refobjid = s.stxrelid)::text[] AS columns
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace,
       LATERAL (SELECT substr(t.text, 1, length(t.text) - length(format(' FROM %%s', s.stxrelid::regclass))) AS definition
                  FROM (SELECT substr(pg_get_statisticsobjdef(s.oid), 1 + length(format('CREATE STATISTICS %%I.%%I', n.nspname, s.stxname))) AS text) t) w
 WHERE s.stxrelid = %(oid)s::oid ORDER BY n.nspname, s.stxname

-- name: constraints
-- Checks and foreign keys with the columns that they read, and what refers to the table; `tail` follows a foreign key's target columns.
SELECT k.conname AS name, k.contype::text AS kind, n.nspname AS schema, c.relname AS table, k.conrelid = %(oid)s::oid AS own, k.convalidated AS valid,
       regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '') AS definition, obj_description(k.oid, 'pg_constraint') AS comment,
       ARRAY(SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY u(attnum, place) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
              ORDER BY u.place)::text[] AS columns,
       ARRAY(SELECT a.attname FROM unnest(k.confkey) WITH ORDINALITY u(attnum, place) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum
              ORDER BY u.place)::text[] AS targets,
       ARRAY(SELECT a.attname FROM unnest(k.confdelsetcols) WITH ORDINALITY u(attnum, place) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
              ORDER BY u.place)::text[] AS cleared, k.conrelid = k.confrelid AND (k.confupdtype::text || k.confdeltype::text) ~ '[cnd]' AS itself,
       fn.nspname AS target_schema, fc.relname AS target,
       CASE WHEN k.contype = 'f' THEN regexp_replace(substr(pg_get_constraintdef(k.oid), 1 + length(format('FOREIGN KEY (%%s) REFERENCES %%s(%%s)',
         (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place) FROM unnest(k.conkey) WITH ORDINALITY u(attnum, place)
            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum), k.confrelid::regclass,
         (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place) FROM unnest(k.confkey) WITH ORDINALITY u(attnum, place)
            JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum)))), ' NOT VALID$', '') END AS tail
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_class fc ON fc.oid = k.confrelid LEFT JOIN pg_namespace fn ON fn.oid = fc.relnamespace
 WHERE (k.conrelid = %(oid)s::oid AND k.contype IN ('c', 'f', 'p', 'u', 'x', 'n') OR k.confrelid = %(oid)s::oid AND k.contype = 'f') AND k.conparentid = 0
 ORDER BY n.nspname, c.relname, k.conname

-- name: triggers
SELECT t.tgname AS name, pg_get_triggerdef(t.oid) AS definition, obj_description(t.oid, 'pg_trigger') AS comment,
       p.prosrc AS source, l.lanname AS language, format('%%I.%%I', f.nspname, p.proname) AS function, p.prosecdef AS definer, t.tgenabled <> 'D' AS fires,
       (t.tgtype & 1) > 0 AS row, (t.tgtype & 66) = 0 AS after, t.tgoldtable IS NOT NULL OR t.tgnewtable IS NOT NULL AS transition,
       ARRAY(SELECT DISTINCT a.attname FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid AND d.refobjid = t.tgrelid)::text[] AS columns
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE t.tgrelid = %(oid)s::oid AND NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgname NOT LIKE '~pgduet%%' AND t.tgname NOT LIKE '!pgduet%%' ORDER BY t.tgname

-- name: policies
SELECT p.polname AS name, p.polpermissive AS permissive, p.polcmd::text AS command, obj_description(p.oid, 'pg_policy') AS comment,
       CASE WHEN 0 = ANY (p.polroles) THEN '{}' ELSE ARRAY(SELECT r.rolname FROM pg_roles r WHERE r.oid = ANY (p.polroles) ORDER BY 1)::text[] END AS roles,
       ARRAY(SELECT r.oid::bigint FROM pg_roles r WHERE r.oid = ANY (p.polroles) ORDER BY r.rolname) AS role_ids,
       pg_get_expr(p.polqual, p.polrelid) AS using, pg_get_expr(p.polwithcheck, p.polrelid) AS check,
       ARRAY(SELECT DISTINCT a.attname FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refobjid = p.polrelid)::text[] AS columns,
       coalesce(p.polqual::text || p.polwithcheck::text, p.polqual::text, p.polwithcheck::text) ~ '\{SUBLINK' AS asks,
       coalesce(p.polqual::text || p.polwithcheck::text, p.polqual::text, p.polwithcheck::text) ~ format(':relid %%s ', p.polrelid) AS itself
  FROM pg_policy p WHERE p.polrelid = %(oid)s::oid ORDER BY p.polname

-- name: publications
SELECT p.pubname AS name, pg_get_expr(r.prqual, r.prrelid) AS condition, pg_has_role(current_user, p.pubowner, 'USAGE') AS owned, p.pubviaroot AS via_root,
       ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs) ORDER BY a.attnum)::text[] AS listed,
       ARRAY(SELECT DISTINCT a.attname FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid AND d.refobjid = r.prrelid)::text[] AS columns
  FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = %(oid)s::oid ORDER BY p.pubname

-- name: published_unasked
-- Publications that a new table gets into by itself: of all tables, or of the table's schema.
SELECT pubname AS name, puballtables AS everything FROM pg_publication
 WHERE puballtables OR oid IN (SELECT n.pnpubid FROM pg_publication_namespace n JOIN pg_class c ON c.relnamespace = n.pnnspid WHERE c.oid = %(oid)s::oid) ORDER BY 1

-- name: grants
-- Who may do what with a relation, and with its columns.
SELECT NULL AS column, CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END AS grantee, x.privilege_type::text AS privilege,
       x.is_grantable AS grantable
  FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x WHERE c.oid = %(oid)s::oid
 UNION
SELECT a.attname::text, CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END, x.privilege_type::text, x.is_grantable
  FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1 NULLS FIRST, 2, 3

-- name: sequences
-- What the sequences of a table's columns have beside their numbers.
SELECT s.oid::bigint AS oid, n.nspname AS schema, s.relname AS name, obj_description(s.oid, 'pg_class') AS comment, s.relacl IS NOT NULL AS granted
  FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s::oid AND d.deptype = 'i' ORDER BY s.relname

-- name: sequence_grants
SELECT CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END AS grantee, x.privilege_type::text AS privilege, x.is_grantable AS grantable
  FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = %(oid)s::oid AND x.grantee <> c.relowner ORDER BY 1, 2

-- name: labels
-- Security labels of the table and of its columns: what they mean is their provider's.
SELECT provider AS name FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = %(oid)s::oid ORDER BY 1

-- name: rules
SELECT rulename AS name FROM pg_rewrite WHERE ev_class = %(oid)s::oid ORDER BY 1

-- name: leaning
-- What else in the database stands upon the table, or upon some of its columns, and would keep them from being dropped: views of the user's, functions that know its
-- row, policies and rules of other tables, tables that inherit from it; upon its partitions, too. Ours, and what goes or moves with it, does not count.
WITH ours AS (SELECT %(oid)s::oid AS oid UNION SELECT relid FROM pg_partition_tree(%(oid)s::oid))
SELECT DISTINCT CASE WHEN r.rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, r.ev_class, 0) ELSE pg_describe_object(d.classid, d.objid, 0) END AS what
  FROM pg_depend d LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
  LEFT JOIN pg_class v ON v.oid = coalesce(r.ev_class, CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid END) LEFT JOIN pg_namespace n ON n.oid = v.relnamespace
  LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid LEFT JOIN pg_namespace pn ON pn.oid = p.pronamespace
  LEFT JOIN pg_policy y ON d.classid = 'pg_policy'::regclass AND y.oid = d.objid
 WHERE (d.refclassid, d.refobjid) IN (SELECT 'pg_class'::regclass, oid FROM ours
         UNION ALL SELECT 'pg_type'::regclass, x.oid FROM ours, pg_class c, pg_type x WHERE c.oid = ours.oid AND (x.oid = c.reltype OR x.typelem = c.reltype)
         -- A view may group by the key: it stands upon the constraint then.
         UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM ours, pg_constraint k WHERE k.conrelid = ours.oid)
   AND d.deptype IN ('n', 'a')
   AND (%(columns)s::text[] IS NULL OR d.refclassid = 'pg_class'::regclass AND d.refobjsubid IN (
          SELECT attnum FROM pg_attribute WHERE attrelid = d.refobjid AND attname = ANY (%(columns)s::text[])))
   AND CASE
         WHEN d.classid = 'pg_rewrite'::regclass THEN v.oid NOT IN (SELECT oid FROM ours) AND n.nspname <> 'pgduet_views'
              AND NOT coalesce(obj_description(n.oid, 'pg_namespace') LIKE %(ours)s || '%%', false)
         WHEN d.classid = 'pg_proc'::regclass THEN pn.nspname <> 'pgduet'
         WHEN d.classid = 'pg_policy'::regclass THEN y.polrelid NOT IN (SELECT oid FROM ours) AND y.polrelid IS DISTINCT FROM to_regclass(%(shadow)s)::oid
         WHEN d.classid = 'pg_class'::regclass THEN v.relkind NOT IN ('i', 'I', 'S', 't') AND v.oid NOT IN (SELECT oid FROM ours) AND NOT v.relispartition
         WHEN d.classid = 'pg_type'::regclass THEN NOT EXISTS (SELECT FROM ours, pg_class c WHERE c.oid = ours.oid AND d.objid IN (c.reltype, (SELECT typarray FROM pg_type WHERE oid = c.reltype)))
         ELSE d.classid NOT IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass, 'pg_trigger'::regclass, 'pg_statistic_ext'::regclass, 'pg_publication_rel'::regclass)
       END
 ORDER BY 1

-- name: foreign_types
-- Which types compare by operators of a schema that the functions on the way do not search.
WITH RECURSIVE base (name, oid) AS (
  SELECT name, to_regtype(name)::oid FROM unnest(%(types)s::text[]) AS name
  UNION ALL
  SELECT b.name, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.oid AND t.typtype = 'd')
SELECT DISTINCT b.name FROM base b JOIN pg_type t ON t.oid = b.oid
 WHERE t.typtype = 'b' AND t.typelem = 0 AND t.typnamespace <> 'pg_catalog'::regnamespace

-- name: leaking_types
-- Which types have an `=` that PostgreSQL lets no condition use ahead of a policy's: it is not marked LEAKPROOF.
WITH RECURSIVE base (name, oid) AS (
  SELECT name, to_regtype(name)::oid FROM unnest(%(types)s::text[]) AS name
  UNION ALL
  SELECT b.name, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.oid AND t.typtype = 'd'),
general AS (
  SELECT b.name, t.oid, CASE WHEN t.typtype = 'e' THEN 'anyenum'::regtype WHEN t.typtype = 'r' THEN 'anyrange'::regtype
           WHEN t.typtype = 'm' THEN 'anymultirange'::regtype WHEN t.typtype = 'c' THEN 'record'::regtype
           WHEN t.typsubscript = 'array_subscript_handler'::regproc THEN 'anyarray'::regtype ELSE t.oid END AS kind
    FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd')
SELECT g.name, min(p.oid::regprocedure::text) AS function FROM general g
  JOIN pg_opclass c ON c.opcdefault AND (c.opcintype IN (g.oid, g.kind) OR EXISTS (
         SELECT FROM pg_cast WHERE castsource = g.oid AND casttarget = c.opcintype AND castmethod = 'b' AND castcontext = 'i'))
  JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
  JOIN pg_amop a ON a.amopfamily = c.opcfamily AND (a.amoplefttype, a.amoprighttype) = (c.opcintype, c.opcintype) AND a.amopstrategy = 3
  JOIN pg_operator o ON o.oid = a.amopopr JOIN pg_proc p ON p.oid = o.oprcode
 GROUP BY g.name HAVING NOT bool_or(p.proleakproof) ORDER BY g.name

-- name: only_pg_catalog
SET LOCAL search_path = pg_catalog

-- name: comparable
SELECT NULL::{type} IS DISTINCT FROM NULL::{type}

-- name: generated
-- Generated columns, whether they are computed when they are read, and what they read.
SELECT a.attname AS name, a.attgenerated = 'v' AS virtual,
       ARRAY(SELECT r.attname FROM pg_attrdef d JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refobjid = a.attrelid
               JOIN pg_attribute r ON r.attrelid = a.attrelid AND r.attnum = p.refobjsubid
              WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND r.attnum <> a.attnum)::text[] AS columns
  FROM pg_attribute a WHERE a.attrelid = to_regclass(%(relation)s) AND a.attnum > 0 AND a.attgenerated <> '' AND NOT a.attisdropped ORDER BY a.attnum

-- name: built
-- The indexes of a shadow that are there and valid.
SELECT x.relname AS name FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = to_regclass(%(relation)s) AND i.indisvalid

-- name: horizon
-- Whoever takes a snapshot from now on sees all that was committed before.
SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS horizon

-- name: older_snapshots
-- Transactions of this database that hold a snapshot from before; without the right to see snapshots, all transactions. A vacuum holds
-- one, and writes no row of the table's.
SELECT l.virtualtransaction AS id, l.pid
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'virtualxid' AND l.granted AND l.pid <> pg_backend_pid() AND coalesce(a.backend_type, 'client backend') = 'client backend'
   AND coalesce(a.datid, (SELECT oid FROM pg_database WHERE datname = current_database())) = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (NOT pg_has_role('pg_read_all_stats', 'USAGE') OR age(a.backend_xmin) > age(%(horizon)s::xid8::xid)) ORDER BY 1

-- name: shape
CREATE TEMPORARY TABLE {shape} ({columns})

-- name: shape_named
ALTER TABLE {shape} RENAME TO {name}

-- name: shape_column
ALTER TABLE {shape} RENAME COLUMN {column} TO {name}

-- name: try_index
CREATE {unique}INDEX {name} ON {shape} {definition}

-- name: try_check
ALTER TABLE {shape} ADD CONSTRAINT {name} {definition}

-- name: try_statistics
CREATE STATISTICS pg_temp.{name}{definition} FROM {shape}

-- name: try_policy
CREATE POLICY {name} ON {shape} {using} {check}

-- name: private
-- Default privileges may have given it to somebody: until contract it is ours alone, and afterwards what the old table's grants say.
DO {body}

-- name: private_body
DECLARE who text;
BEGIN
  FOR who IN SELECT DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END
               FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = {relation}::regclass AND x.grantee <> c.relowner
  LOOP
    EXECUTE format('REVOKE ALL ON %s FROM %s', {relation}, who);
  END LOOP;
END

-- name: set_options
ALTER TABLE {relation} SET ({options})

-- name: set_tablespace
ALTER TABLE {relation} SET TABLESPACE {tablespace}

-- name: set_unlogged
ALTER TABLE {relation} SET UNLOGGED

-- name: set_storage
ALTER TABLE {relation} ALTER COLUMN {column} SET STORAGE {storage}

-- name: set_compression
ALTER TABLE {relation} ALTER COLUMN {column} SET COMPRESSION {compression}

-- name: set_statistics
ALTER TABLE {relation} ALTER COLUMN {column} SET STATISTICS {target}

-- name: set_column_options
ALTER TABLE {relation} ALTER COLUMN {column} SET ({options})

-- name: named_by_all
ALTER TABLE {relation} REPLICA IDENTITY FULL

-- name: identity
ALTER TABLE {relation} REPLICA IDENTITY {how}

-- name: comment_column
COMMENT ON COLUMN {relation}.{column} IS {text}

-- name: comment_constraint
COMMENT ON CONSTRAINT {constraint} ON {relation} IS {text}

-- name: comment_index
COMMENT ON INDEX {index} IS {text}

-- name: comment_trigger
COMMENT ON TRIGGER {trigger} ON {relation} IS {text}

-- name: comment_policy
COMMENT ON POLICY {policy} ON {relation} IS {text}

-- name: comment_statistics
COMMENT ON STATISTICS {statistics} IS {text}

-- name: comment_sequence
COMMENT ON SEQUENCE {sequence} IS {text}

-- name: rename_constraint
ALTER TABLE {relation} RENAME CONSTRAINT {constraint} TO {name}

-- name: index_statistics
ALTER INDEX {index} ALTER COLUMN {place} SET STATISTICS {target}

-- name: index_options
ALTER INDEX {index} SET ({options})

-- name: cluster_on
ALTER TABLE {relation} CLUSTER ON {index}

-- name: create_statistics
CREATE STATISTICS {name}{definition} FROM {relation}

-- name: drop_statistics
DROP STATISTICS IF EXISTS {name}

-- name: rename_statistics
ALTER STATISTICS {name} RENAME TO {final}

-- name: statistics_target
ALTER STATISTICS {name} SET STATISTICS {target}

-- name: statistics_owner
ALTER STATISTICS {name} OWNER TO {role}

-- name: analyze
ANALYZE {relation}

-- name: publish
ALTER PUBLICATION {publication} ADD TABLE {relation}{columns}{condition}

-- name: grant
GRANT {right} ON {relation} TO {role}{option}

-- name: grant_columns
GRANT {right} ({column}) ON {relation} TO {role}{option}

-- name: grant_sequence
GRANT {right} ON SEQUENCE {sequence} TO {role}{option}

-- name: revoke_owner
REVOKE ALL ON {relation} FROM {role}

-- name: owner
ALTER TABLE {relation} OWNER TO {role}

-- name: force
ALTER TABLE {relation} FORCE ROW LEVEL SECURITY

-- name: enable
ALTER TABLE {relation} ENABLE ROW LEVEL SECURITY

-- name: policy
CREATE POLICY {policy} ON {relation} AS {kind} FOR {command} TO {roles} {using} {check}

-- name: default_tablespace
SET LOCAL default_tablespace = {tablespace}

-- name: unique_using
ALTER TABLE {relation} ADD CONSTRAINT {name} UNIQUE USING INDEX {index}

-- name: tried_index
SELECT substr(pg_get_indexdef(x.oid), strpos(pg_get_indexdef(x.oid), format('%%I USING ', c.relname)) + length(format('%%I ', c.relname))) AS definition,
       pg_get_expr(i.indpred, i.indrelid) AS predicate,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(n, at) JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n
              WHERE k.at <= i.indnkeyatts ORDER BY k.at) AS keys,
       -- By what a btree compares: the operator of its class, in the index's collation.
       coalesce((SELECT jsonb_agg(jsonb_build_object('text', '(' || pg_get_indexdef(x.oid, p.n::int, false) || ')',
                          'operator', format('OPERATOR(%%I.%%s)', s.nspname, o.oprname),
                          'collation', (SELECT format('%%I.%%I', cs.nspname, co.collname) FROM pg_collation co JOIN pg_namespace cs ON cs.oid = co.collnamespace
                                         WHERE co.oid = p.col)) ORDER BY p.n)
                   FROM unnest(i.indclass::oid[], i.indcollation::oid[]) WITH ORDINALITY p(class, col, n) JOIN pg_opclass oc ON oc.oid = p.class
                   JOIN pg_amop a ON a.amopfamily = oc.opcfamily AND a.amopstrategy = 3 AND a.amoplefttype = oc.opcintype AND a.amoprighttype = oc.opcintype
                   JOIN pg_operator o ON o.oid = a.amopopr JOIN pg_namespace s ON s.oid = o.oprnamespace
                  WHERE i.indisunique), '[]') AS parts
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
 WHERE c.oid = to_regclass(%(shape)s::text) AND x.relname = %(name)s::text

-- name: tried_constraint
SELECT pg_get_constraintdef(oid) AS definition, pg_get_expr(conbin, conrelid) AS condition
  FROM pg_constraint WHERE conrelid = to_regclass(%(shape)s::text) AND conname = %(name)s::text

-- name: tried_statistics
-- What stands between its name and the last ` FROM `, which is looked for from behind.
SELECT substr(left(t.text, length(t.text) - strpos(reverse(t.text), ' MORF ') - 5), strpos(t.text, t.name) + length(t.name)) AS definition
  FROM (SELECT s.stxname::text AS name, pg_get_statisticsobjdef(s.oid) AS text
          FROM pg_statistic_ext s WHERE s.stxrelid = to_regclass(%(shape)s::text) AND s.stxname = %(name)s::text) t

-- name: tried_trigger
SELECT replace(pg_get_triggerdef(t.oid), format(' ON pg_temp.%%I ', c.relname), format(' ON %%s ', %(final)s::text)) AS definition
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.oid = to_regclass(%(shape)s::text) AND t.tgname = %(name)s::text

-- name: tried_policy
SELECT pg_get_expr(polqual, polrelid) AS using, pg_get_expr(polwithcheck, polrelid) AS check
  FROM pg_policy WHERE polrelid = to_regclass(%(shape)s::text) AND polname = %(name)s::text

-- name: alter_policy
ALTER POLICY {policy} ON {relation} TO PUBLIC {clauses}

-- name: policies_are
-- What tells whether policies have changed since they were looked at, and whether the shadow has ours (`there`).
SELECT EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass(%(shadow)s) AND polname = 'pgduet_read') AS there, c.relrowsecurity AS secured, md5(concat_ws(' ', c.relrowsecurity, (SELECT string_agg(concat_ws(' ', p.oid, p.xmin, p.ctid), ',' ORDER BY p.oid)
         FROM pg_policy p WHERE p.polrelid = c.oid))) AS mark
  FROM pg_class c WHERE c.oid = to_regclass(%(relation)s)

-- name: unless_free
NOT pg_catalog.row_security_active({relation}::regclass) OR {condition}

-- name: policy_function
-- Not in one expression: then PostgreSQL would put it in the policy's place, and ask as the view's owner.
CREATE OR REPLACE FUNCTION {function}({arguments}) RETURNS boolean LANGUAGE sql STABLE
BEGIN ATOMIC SELECT ({condition}) FROM (SELECT {row}) AS {alias}; END

-- name: path
SELECT current_setting('search_path') AS path

-- name: set_path
SELECT set_config('search_path', %(path)s::text, true)

-- name: mark_function
COMMENT ON FUNCTION {function} IS {text}

-- name: drop_policy_functions
DO {body}

-- name: drop_policy_functions_body
DECLARE f regprocedure;
BEGIN
  FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'pgduet'::regnamespace AND obj_description(oid, 'pg_proc') = {label}
  LOOP
    EXECUTE format('DROP FUNCTION %s', f);
  END LOOP;
END
