-- Facts of the catalogue, as operations need them.

-- name: table
SELECT c.oid::bigint AS oid, c.relkind::text AS kind, c.relpersistence::text AS persistence, r.rolname AS owner,
       pg_has_role(current_user, c.relowner, 'USAGE') AS owned,
       (EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent))) AS inherits,
       c.relforcerowsecurity AND NOT (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS hides_rows,
       greatest(c.reltuples, 0)::float8 AS rows,
       (pg_relation_size(c.oid) / current_setting('block_size')::int)::bigint AS pages,
       has_database_privilege(current_database(), 'CREATE') AS may_create
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: similar_tables
SELECT n.nspname AS schema, c.relname AS table
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema$|pgduet)'

-- name: columns
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       coalesce((SELECT collisdeterministic FROM pg_collation WHERE oid = a.attcollation), true) AS exact,
       a.attgenerated <> '' AS generated,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey)) AS in_key
  FROM pg_attribute a
 WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum

-- name: key
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(attnum, position), pg_attribute a
 WHERE i.indrelid = %(oid)s::oid AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.attnum
 ORDER BY k.position

-- name: dependents
-- What hangs on each column. Objects of one class are told apart by kind; our own views are left out by the caller's list.
SELECT a.attname AS name, d.classid::regclass::text AS class, pg_describe_object(d.classid, d.objid, d.objsubid) AS what,
       CASE d.classid
         WHEN 'pg_constraint'::regclass THEN (SELECT contype::text FROM pg_constraint WHERE oid = d.objid)
         WHEN 'pg_attrdef'::regclass THEN (SELECT CASE WHEN adnum = a.attnum THEN 'own' ELSE 'generated' END FROM pg_attrdef WHERE oid = d.objid)
         WHEN 'pg_class'::regclass THEN (SELECT relkind::text FROM pg_class WHERE oid = d.objid)
         ELSE '' END AS kind,
       (SELECT n.nspname FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class JOIN pg_namespace n ON n.oid = v.relnamespace
         WHERE d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid) AS view_schema
  FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s::oid AND d.refobjsubid > 0

-- name: triggers
-- The user's own row triggers; tgtype bits: 1 row, 2 before, 4 insert, 16 update.
SELECT tgname AS name, (tgtype & 2) > 0 AS before, (tgtype & 16) > 0 AS on_update
  FROM pg_trigger
 WHERE tgrelid = %(oid)s::oid AND NOT tgisinternal AND tgname NOT LIKE '~pgduet%%' AND tgenabled <> 'D'

-- name: schema_usage
SELECT CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END AS grantee
  FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
 WHERE n.nspname = %(schema)s AND x.privilege_type = 'USAGE'

-- name: schema_tables
SELECT c.relname AS table, r.rolname AS owner, current_setting('is_superuser') = 'on' AS may_give,
       ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum)::text[] AS columns
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
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
