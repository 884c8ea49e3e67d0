-- Facts of the catalogue, as operations need them.

-- name: table
SELECT c.oid::bigint AS oid, c.relkind::text AS kind, c.relpersistence::text AS persistence, r.rolname AS owner,
       pg_has_role(current_user, c.relowner, 'USAGE') AS owned,
       (EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent))) AS inherits,
       (SELECT format('%%s.%%s', rn.nspname, rc.relname) FROM pg_class rc JOIN pg_namespace rn ON rn.oid = rc.relnamespace
         WHERE c.relispartition AND rc.oid = pg_partition_root(c.oid)) AS partition_of,
       c.relforcerowsecurity AND NOT (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS hides_rows,
       c.relkind <> 'p' OR current_setting('server_version_num')::int >= 180000 AS late_keys,
       -- An index that was dropped leaves nothing to go by.
       CASE WHEN c.relreplident = 'f' THEN 'full' WHEN c.relreplident = 'd' THEN 'default' WHEN x.relname IS NOT NULL THEN 'index' ELSE 'nothing' END
         AS replica_identity, x.relname AS identity_index,
       greatest(c.reltuples, 0)::float8 AS rows,
       (pg_relation_size(c.oid) / current_setting('block_size')::int)::bigint AS pages,
       has_database_privilege(current_database(), 'CREATE') AS may_create
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
  LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident LEFT JOIN pg_class x ON x.oid = i.indexrelid
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: partitions
-- What lies under a partitioned table, at all levels; nothing under any other.
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS table, c.relkind::text AS kind, p.isleaf AS leaf,
       pg_has_role(current_user, c.relowner, 'USAGE') AS owned,
       c.relforcerowsecurity AND NOT (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS hides_rows,
       greatest(c.reltuples, 0)::float8 AS rows, (pg_relation_size(c.oid) / current_setting('block_size')::int)::bigint AS pages
  FROM pg_partition_tree(%(oid)s::oid) p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE p.level > 0 ORDER BY p.level, n.nspname, c.relname

-- name: heaps
SELECT n.nspname AS schema, c.relname AS table
  FROM pg_partition_tree(to_regclass(%(relation)s)) p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE p.isleaf AND c.relkind = 'r' ORDER BY n.nspname, c.relname

-- name: partition_key
-- The columns by which rows are sent to partitions, at all levels; expressions depend on theirs.
SELECT DISTINCT a.attname AS name
  FROM pg_partition_tree(%(oid)s::oid) p JOIN pg_partitioned_table t ON t.partrelid = p.relid JOIN pg_attribute a ON a.attrelid = p.relid
 WHERE a.attnum > 0 AND (a.attnum = ANY (t.partattrs) OR EXISTS (
       SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = p.relid AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid = p.relid AND d.refobjsubid = a.attnum))

-- name: similar_tables
SELECT n.nspname AS schema, c.relname AS table
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema$|pgduet)'

-- name: columns
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       coalesce((SELECT collisdeterministic FROM pg_collation WHERE oid = a.attcollation), true) AS exact,
       a.attgenerated <> '' AS generated, a.attidentity <> '' AS identity, a.attidentity = 'a' AS always,
       CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default,
       CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END AS formula,
       (SELECT format('%%I.%%I', n.nspname, o.collname) FROM pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace, pg_type y
         WHERE o.oid = a.attcollation AND y.oid = a.atttypid AND y.typcollation <> a.attcollation) AS collation,
       CASE WHEN a.attstattarget >= 0 THEN a.attstattarget::int END AS statistics, col_description(a.attrelid, a.attnum) AS comment,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey)) AS in_key
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum

-- name: key
-- Without columns that its index only carries along.
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(attnum, position), pg_attribute a
 WHERE i.indrelid = %(oid)s::oid AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.position <= i.indnkeyatts
 ORDER BY k.position

-- name: dependents
-- What hangs on each column, by kind; our own views and triggers do not count.
SELECT a.attname AS name, pg_describe_object(d.classid, d.objid, d.objsubid) || CASE WHEN i.indisreplident THEN ' (the replica identity)' ELSE '' END AS what,
       CASE
         -- Without it, an UPDATE of a published table is refused.
         WHEN i.indisreplident AND NOT i.indisprimary THEN 'other' ELSE
       CASE d.classid
         WHEN 'pg_constraint'::regclass THEN
           (SELECT CASE WHEN k.contype = 'f' AND k.conrelid <> d.refobjid THEN 'inbound'
                        WHEN k.contype = 'f' AND k.confrelid = d.refobjid AND a.attnum = ANY (k.confkey) THEN 'itself'
                        ELSE CASE k.contype WHEN 'c' THEN 'check' WHEN 'f' THEN 'foreign' WHEN 'p' THEN 'primary' WHEN 'u' THEN 'unique'
                                            WHEN 'x' THEN 'exclusion' WHEN 'n' THEN 'own' WHEN 't' THEN 'trigger' ELSE 'other' END END
              FROM pg_constraint k WHERE k.oid = d.objid)
         WHEN 'pg_attrdef'::regclass THEN (SELECT CASE WHEN adnum = a.attnum THEN 'own' ELSE 'generated' END FROM pg_attrdef WHERE oid = d.objid)
         WHEN 'pg_class'::regclass THEN
           -- A partitioned table depends on the columns of its own key.
           (SELECT CASE WHEN oid = d.refobjid THEN 'own' WHEN relkind IN ('i', 'I') THEN 'index' WHEN relkind = 'S' THEN 'own' ELSE 'other' END
              FROM pg_class WHERE oid = d.objid)
         WHEN 'pg_trigger'::regclass THEN (SELECT CASE WHEN tgname LIKE '~pgduet%%' OR tgname LIKE '!pgduet%%' THEN 'own' ELSE 'trigger' END FROM pg_trigger WHERE oid = d.objid)
         WHEN 'pg_rewrite'::regclass THEN
           (SELECT CASE WHEN n.nspname = 'pgduet_views' OR coalesce(obj_description(n.oid, 'pg_namespace') LIKE %(ours)s || '%%', false) THEN 'own'
                        ELSE 'view' END
              FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class JOIN pg_namespace n ON n.oid = v.relnamespace WHERE r.oid = d.objid)
         WHEN 'pg_policy'::regclass THEN 'policy'
         WHEN 'pg_statistic_ext'::regclass THEN 'statistics'
         ELSE 'other' END END AS kind,
       CASE d.classid
         WHEN 'pg_constraint'::regclass THEN (SELECT coninhcount > 0 OR conparentid <> 0 FROM pg_constraint WHERE oid = d.objid)
         WHEN 'pg_class'::regclass THEN (SELECT relispartition FROM pg_class WHERE oid = d.objid)
         WHEN 'pg_trigger'::regclass THEN (SELECT tgparentid <> 0 FROM pg_trigger WHERE oid = d.objid)
         WHEN 'pg_attrdef'::regclass THEN true
         ELSE false END AS inherited
  FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid AND c.contype IN ('p', 'u')
  LEFT JOIN pg_index i ON i.indrelid = d.refobjid
   AND i.indexrelid = CASE d.classid WHEN 'pg_class'::regclass THEN d.objid WHEN 'pg_constraint'::regclass THEN c.conindid END
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s::oid AND d.refobjsubid > 0

-- name: indexes
-- All but the primary key's; the columns that an index reads, in keys, expressions and predicate.
SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition, i.indisunique AS unique, k.oid IS NOT NULL AS constraint,
       coalesce(k.condeferrable, false) AS deferrable, coalesce(k.condeferred, false) AS deferred,
       CASE WHEN i.indpred IS NULL AND i.indexprs IS NULL THEN
         ARRAY(SELECT a.attname FROM unnest(i.indkey) WITH ORDINALITY u(attnum, place) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
                WHERE u.place <= i.indnkeyatts ORDER BY u.place)::text[] ELSE '{}' END AS keys,
       ARRAY(SELECT DISTINCT a.attname FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum > 0
               AND (a.attnum = ANY (i.indkey) OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                      AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum)))::text[] AS columns
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('u', 'x') AND k.conrelid = i.indrelid
 WHERE i.indrelid = %(oid)s::oid AND NOT i.indisprimary AND i.indisvalid AND coalesce(k.contype, 'u') = 'u' ORDER BY c.relname

-- name: checks
SELECT k.conname AS name, pg_get_expr(k.conbin, k.conrelid) AS expression,
       ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = k.conrelid AND attnum = ANY (k.conkey))::text[] AS columns
  FROM pg_constraint k WHERE k.conrelid = %(oid)s::oid AND k.contype = 'c' ORDER BY k.conname

-- name: foreign_keys
SELECT k.conname AS name, pg_get_constraintdef(k.oid) AS definition, n.nspname AS target_schema, c.relname AS target,
       ARRAY(SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY u(attnum, place) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
              ORDER BY u.place)::text[] AS columns,
       ARRAY(SELECT a.attname FROM unnest(k.confkey) WITH ORDINALITY u(attnum, place) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum
              ORDER BY u.place)::text[] AS target_columns,
       substr(pg_get_constraintdef(k.oid), 1 + length(format('FOREIGN KEY (%%s) REFERENCES %%s(%%s)',
         (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place) FROM unnest(k.conkey) WITH ORDINALITY u(attnum, place)
            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum), k.confrelid::regclass,
         (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place) FROM unnest(k.confkey) WITH ORDINALITY u(attnum, place)
            JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum)))) AS tail
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.conrelid = %(oid)s::oid AND k.contype = 'f' ORDER BY k.conname

-- name: constraints
-- All of a table, with what stands on them: foreign keys of others, and (by their index) the identity of published rows.
SELECT k.conname AS name, k.contype::text AS kind,
       ARRAY(SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY u(attnum, place) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
              ORDER BY u.place)::text[] AS columns,
       ARRAY(SELECT format('%%s of %%s', f.conname, f.conrelid::regclass) FROM pg_constraint f
              WHERE f.contype = 'f' AND f.conindid = k.conindid AND k.contype IN ('p', 'u') ORDER BY 1)::text[] AS inbound,
       k.contype IN ('p', 'u') AND EXISTS (
         SELECT FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
          WHERE i.indexrelid = k.conindid AND (i.indisreplident OR i.indisprimary AND t.relreplident = 'd')
            AND (EXISTS (SELECT FROM pg_publication_rel r WHERE r.prrelid = t.oid) OR EXISTS (SELECT FROM pg_publication WHERE puballtables)
                 OR EXISTS (SELECT FROM pg_publication_namespace r WHERE r.pnnspid = t.relnamespace))) AS identity
  FROM pg_constraint k WHERE k.conrelid = %(oid)s::oid ORDER BY k.conname

-- name: foreign_targets
-- The tables that foreign keys over these columns refer to: to drop such a key locks them.
SELECT DISTINCT n.nspname AS schema, c.relname AS target
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.conrelid = to_regclass(%(relation)s) AND k.contype = 'f' AND k.confrelid <> k.conrelid
   AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) AND a.attname = ANY (%(columns)s))
 ORDER BY 1, 2

-- name: column_grants
SELECT a.attname AS column, CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END AS grantee,
       x.privilege_type::text AS privilege
  FROM pg_attribute a, aclexplode(a.attacl) x
 WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2, 3

-- name: names_taken
-- Constraints of a table, and relations of its schema.
SELECT conname::text AS name FROM pg_constraint WHERE conrelid = %(oid)s::oid
 UNION SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = %(oid)s::oid) AND c.relkind IN ('i', 'I', 'S')

-- name: constrained_domain
-- A domain with constraints, or one over such a domain: a column of it cannot be added without rewriting the table.
WITH RECURSIVE over (oid, basetype, not_null) AS (
  SELECT oid, typbasetype, typnotnull FROM pg_type WHERE oid = to_regtype(%(type)s) AND typtype = 'd'
  UNION ALL
  SELECT t.oid, t.typbasetype, t.typnotnull FROM over JOIN pg_type t ON t.oid = over.basetype AND t.typtype = 'd'
)
SELECT (SELECT format_type(basetype, NULL) FROM over WHERE basetype NOT IN (SELECT oid FROM over)) AS base,
       (SELECT string_agg(pg_get_constraintdef(k.oid), ', ') FROM pg_constraint k WHERE k.contypid IN (SELECT oid FROM over)) AS says
  FROM over HAVING bool_or(not_null) OR bool_or(EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = over.oid))

-- name: relation_there
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s AND c.relname = %(name)s) AS there

-- name: schema_there
SELECT has_schema_privilege(oid, 'CREATE') AS may_create FROM pg_namespace WHERE nspname = %(schema)s

-- name: target
-- The table that a foreign key points to: may we refer to it, and which columns can be referred to?
SELECT c.oid::bigint AS oid, has_table_privilege(c.oid, 'REFERENCES') AS may_refer, c.relkind::text AS kind,
       (SELECT array_agg(a.attname ORDER BY u.place) FROM pg_index i, unnest(i.indkey) WITH ORDINALITY u(attnum, place), pg_attribute a
         WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND a.attnum = u.attnum)::text[] AS key,
       (SELECT array_agg(a.attname) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indnkeyatts = 1 AND i.indpred IS NULL
           AND i.indkey[0] > 0)::text[] AS unique_columns,
       (SELECT coalesce(jsonb_agg((SELECT jsonb_agg(a.attname) FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(attnum, place)
                                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum WHERE u.place <= i.indnkeyatts)), '[]')
          FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
           AND NOT 0 = ANY (i.indkey)) AS unique_sets
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: triggers
-- The user's own row triggers; tgtype bits: 1 row, 2 before, 4 insert, 16 update.
SELECT tgname AS name, (tgtype & 2) > 0 AS before, (tgtype & 16) > 0 AS on_update
  FROM pg_trigger
 WHERE (tgrelid = %(oid)s::oid OR tgparentid = 0 AND tgrelid IN (SELECT relid FROM pg_partition_tree(%(oid)s::oid)))
   AND NOT tgisinternal AND tgname NOT LIKE '~pgduet%%' AND tgname NOT LIKE '!pgduet%%' AND tgenabled <> 'D'

-- name: update_triggers
-- The user's own triggers that an UPDATE may fire, and in which sessions: O ordinary ones, R those of replicas, A all.
SELECT tgname AS name, tgenabled::text AS fires FROM pg_trigger
 WHERE (tgrelid = %(relation)s::text::regclass
        OR tgparentid = 0 AND tgrelid IN (SELECT relid FROM pg_partition_tree(%(relation)s::text::regclass)))
   AND NOT tgisinternal AND tgname NOT LIKE '~pgduet%%' AND tgname NOT LIKE '!pgduet%%' AND tgenabled <> 'D'
   AND (tgtype & 16) > 0
 ORDER BY tgname

-- name: trigger_functions
-- Functions of the user's own enabled triggers, with their source; those in C have none that can be read.
SELECT DISTINCT f.nspname AS schema, p.proname AS function, p.prosrc AS source
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND NOT t.tgisinternal AND t.tgname NOT LIKE '~pgduet%%' AND t.tgname NOT LIKE '!pgduet%%'
   AND t.tgenabled <> 'D' AND l.lanname NOT IN ('c', 'internal')
 ORDER BY 1, 2

-- name: schema_usage
SELECT CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END AS grantee
  FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
 WHERE n.nspname = %(schema)s AND x.privilege_type = 'USAGE'

-- name: schema_tables
-- Without columns in the making: they are the version's that brings them, and its alone. A parent in the making is nobody's table yet, and
-- what is under it still one of its own.
SELECT c.relname AS table, r.rolname AS owner, current_setting('is_superuser') = 'on' AS may_give,
       ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND NOT starts_with(a.attname, '_pgduet_') ORDER BY a.attnum)::text[] AS columns, c.oid::bigint AS oid
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND NOT starts_with(c.relname, '_pgduet_')
   AND (NOT c.relispartition OR EXISTS (SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
                                         WHERE i.inhrelid = c.oid AND p.relnamespace = c.relnamespace AND starts_with(p.relname, '_pgduet_')))
 ORDER BY c.relname

-- name: schema_owner
-- Whether a schema is there, and whether its comment says that it is a version schema of ours.
SELECT coalesce(obj_description(oid, 'pg_namespace') LIKE %(ours)s || '%%', false) AS ours
  FROM pg_namespace WHERE nspname = %(schema)s

-- name: schema_views
SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind = 'v' ORDER BY c.relname

-- name: table_grants
SELECT c.relname AS table, CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END AS grantee,
       array_agg(x.privilege_type ORDER BY x.privilege_type)::text[] AS privileges
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
       aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p')
 GROUP BY c.relname, x.grantee

-- name: not_null_names
-- PostgreSQL 18 keeps NOT NULL as named constraints; older ones have none.
SELECT a.attname AS column, k.conname AS name
  FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
 WHERE k.conrelid = to_regclass(%(relation)s) AND k.contype = 'n'

-- name: version_schemas
-- Our version schemas, with their comments, which say what they show.
SELECT nspname AS name, obj_description(oid, 'pg_namespace') AS comment
  FROM pg_namespace WHERE starts_with(obj_description(oid, 'pg_namespace'), %(ours)s) ORDER BY nspname

-- name: view_there
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind = 'v') AS there

-- name: named_index
-- An index by its name; `unfit` says why logical replication cannot name rows by it.
SELECT n.nspname AS schema_name, t.relname AS table, c.relkind = 'I' AS partitioned, k.conname AS constraint, i.indisvalid AS valid,
       i.indisreplident AS identity, keys.names AS columns,
       (SELECT format('%%s.%%s', o.relnamespace::regnamespace, o.relname) FROM pg_inherits p JOIN pg_class o ON o.oid = p.inhparent
         WHERE p.inhrelid = i.indexrelid) AS part_of,
       ARRAY(SELECT format('%%s of %%s.%%s', f.conname, o.relnamespace::regnamespace, o.relname)
               FROM pg_constraint f JOIN pg_class o ON o.oid = f.conrelid
              WHERE f.contype = 'f' AND f.conindid = i.indexrelid ORDER BY 1)::text[] AS inbound,
       CASE WHEN NOT i.indisvalid THEN 'it is not valid' WHEN NOT i.indisunique THEN 'it is not unique'
            WHEN NOT i.indimmediate THEN 'its constraint is deferrable' WHEN i.indpred IS NOT NULL THEN 'it does not have all rows'
            WHEN keys.expressions THEN 'it is over an expression' WHEN keys.empty IS NOT NULL THEN format('its column "%%s" may be empty', keys.empty)
       END AS unfit
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x'),
  LATERAL (SELECT array_agg(a.attname::text ORDER BY u.place) FILTER (WHERE a.attname IS NOT NULL) AS names, bool_or(u.attnum = 0) AS expressions,
                  min(a.attname::text) FILTER (WHERE NOT a.attnotnull) AS empty
             FROM unnest(i.indkey) WITH ORDINALITY u(attnum, place) LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
            WHERE u.place <= i.indnkeyatts) keys
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s

-- name: similar_indexes
SELECT n.nspname AS schema, c.relname AS index
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('i', 'I') AND n.nspname !~ '^(pg_|information_schema$|pgduet)'

-- name: publications
-- Who publishes a table's updates or deletes: the columns that are listed (null: all), and those by which rows are chosen.
SELECT p.pubname AS name,
       CASE WHEN r.prattrs IS NOT NULL THEN
         ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum = ANY (r.prattrs))::text[] END AS listed,
       ARRAY(SELECT DISTINCT a.attname FROM regexp_matches(r.prqual::text, ':varattno ([0-9]+)', 'g') v(found)
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = v.found[1]::int)::text[] AS chosen_by
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND (p.pubupdate OR p.pubdelete)
   AND (p.puballtables OR r.oid IS NOT NULL OR EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = p.oid AND pnnspid = n.oid))
 ORDER BY p.pubname

-- name: column_types
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND a.attnum > 0 AND NOT a.attisdropped
