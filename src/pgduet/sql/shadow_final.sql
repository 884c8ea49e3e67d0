-- A shadow takes its anchor's place, or an extracted table its own: contract's one transaction.

-- name: drop_policy
DROP POLICY IF EXISTS {policy} ON {shadow}

-- name: no_security
ALTER TABLE {shadow} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY

-- name: drop_constraint
ALTER TABLE {relation} DROP CONSTRAINT IF EXISTS {constraint}

-- name: drop_anchor
DROP TABLE {relation}

-- name: drop_column
ALTER TABLE {relation} DROP COLUMN IF EXISTS {column}

-- name: rename
ALTER TABLE {relation} RENAME TO {name}

-- name: rename_constraint
ALTER TABLE {relation} RENAME CONSTRAINT {constraint} TO {name}

-- name: rename_index
ALTER INDEX {index} RENAME TO {name}

-- name: unique_using
ALTER TABLE {relation} ADD CONSTRAINT {name} UNIQUE USING INDEX {index}

-- name: own_sequence
ALTER SEQUENCE {sequence} OWNED BY {shadow}.{column}

-- name: widen_sequence
ALTER SEQUENCE {sequence} AS bigint

-- name: identity
ALTER TABLE {shadow} ALTER COLUMN {column} ADD GENERATED {kind} AS IDENTITY (SEQUENCE NAME {working} {options})

-- name: create_sequence
CREATE SEQUENCE {working} AS bigint {options}

-- name: sequence_owner
ALTER SEQUENCE {working} OWNER TO {role}

-- name: may_number
GRANT USAGE ON SEQUENCE {sequence} TO {role}

-- name: go_on
SELECT setval({working}::regclass, last_value, is_called) FROM {sequence}

-- name: rename_sequence
ALTER SEQUENCE {working} RENAME TO {name}

-- name: set_default
ALTER TABLE {relation} ALTER COLUMN {column} SET DEFAULT {value}

-- name: named_not_null
-- From PostgreSQL 18 on.
ALTER TABLE {relation} ADD CONSTRAINT {name} NOT NULL {column}

-- name: columns_are
-- What tells whether a table's columns have changed since they were looked at.
(SELECT md5(string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attnotnull, a.attidentity, a.attgenerated,
          a.attstattarget, a.attstorage, a.attcompression, a.attoptions, pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum)), ',' ORDER BY a.attnum))
   FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE a.attrelid = to_regclass({relation}) AND a.attnum > 0 AND NOT a.attisdropped)

-- name: look
SELECT {now} AS mark

-- name: required
-- Columns that must not be empty.
SELECT attname AS name FROM pg_attribute WHERE attrelid = to_regclass(%(relation)s) AND attnum > 0 AND attnotnull AND NOT attisdropped

-- name: as_seen
-- Under the lock that keeps it from changing: what somebody changed of a column since must not go with the old table.
DO {body}

-- name: as_seen_body
BEGIN
  IF {now} IS DISTINCT FROM {known} THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'columns have changed';
  END IF;
END

-- name: add_constraint
ALTER TABLE {relation} ADD CONSTRAINT {name} {definition} NOT VALID

-- name: validate
ALTER TABLE {relation} VALIDATE CONSTRAINT {name}

-- name: enable_trigger
ALTER TABLE {relation} {how} TRIGGER {trigger}

-- name: comment
COMMENT ON TABLE {relation} IS {text}

-- name: owner
ALTER TABLE {relation} OWNER TO {role}

-- name: revoke_view_owner
REVOKE ALL ON {shadow} FROM {role}

-- name: drop_view_default
ALTER VIEW {view} ALTER COLUMN {column} DROP DEFAULT

-- name: invoker
ALTER VIEW {view} SET (security_invoker = true)

-- name: constraints
-- Foreign keys from and to the anchor, and its checks, in PostgreSQL's words; those of the table to itself count as inbound.
SELECT n.nspname AS schema, c.relname AS table, k.conname AS name, regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '') AS definition,
       k.convalidated AS valid, tn.nspname AS target_schema, t.relname AS target, k.confrelid::regclass::text AS written,
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) f (attnum) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = f.attnum) AS refers_to,
       CASE WHEN k.confrelid = %(oid)s::oid THEN 'inbound' WHEN k.contype = 'f' THEN 'outbound' ELSE 'check' END AS kind
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_class t ON t.oid = k.confrelid LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
 WHERE (k.confrelid = %(oid)s::oid AND k.contype = 'f' OR k.conrelid = %(oid)s::oid AND k.contype IN ('f', 'c'))
   AND k.conparentid = 0 ORDER BY n.nspname, c.relname, k.conname

-- name: triggers
-- The user's own triggers.
SELECT tgname AS name, pg_get_triggerdef(oid) AS definition, tgenabled::text AS enabled,
       (SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = tgrelid) AS relation
  FROM pg_trigger
 WHERE tgrelid = %(oid)s::oid AND NOT tgisinternal AND tgname NOT LIKE '~pgduet%%' AND tgname NOT LIKE '!pgduet%%' ORDER BY tgname

-- name: sequence
-- The sequence that numbers the rows: an identity's, or one that a column owns.
SELECT a.attname AS column, a.attidentity::text AS identity, n.nspname AS schema, s.relname AS name, q.seqincrement AS step, q.seqcache AS cache,
       q.seqstart AS start, q.seqcycle AS cycle,
       nullif(q.seqmin, CASE WHEN q.seqincrement > 0 THEN 1 ELSE -w.most - 1 END) AS smallest, nullif(q.seqmax, CASE WHEN q.seqincrement > 0 THEN w.most ELSE -1 END) AS largest
  FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_sequence q ON q.seqrelid = s.oid JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid,
       LATERAL (SELECT CASE q.seqtypid WHEN 'smallint'::regtype THEN 32767 WHEN 'integer'::regtype THEN 2147483647 ELSE 9223372036854775807 END::bigint AS most) w
 WHERE d.classid = 'pg_class'::regclass AND d.refobjid = %(oid)s::oid AND d.deptype IN ('a', 'i') ORDER BY a.attnum

-- name: about
SELECT c.oid::bigint AS oid, r.rolname AS owner, obj_description(c.oid, 'pg_class') AS comment,
       (SELECT k.conname FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p') AS key
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s
