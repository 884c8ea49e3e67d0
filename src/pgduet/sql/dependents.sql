-- Views and policies of the user's own that depend on columns which change; read with an empty search_path.

-- name: views
-- Views that read one of the columns, and views upon those, the nearest first. Ours do not count.
WITH RECURSIVE reading (oid, depth, direct) AS (
  SELECT DISTINCT r.ev_class, 1, true
    FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
   WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
     AND d.refobjid = to_regclass(%(relation)s) AND a.attname = ANY (%(columns)s)
  UNION
  SELECT r.ev_class, v.depth + 1, false
    FROM reading v JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid
   WHERE r.ev_class <> v.oid AND v.depth < 100
)
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, bool_or(v.direct) AS direct, c.relkind::text AS kind,
       pg_get_userbyid(c.relowner)::text AS owner, pg_has_role(current_user, c.relowner, 'USAGE') AS owned,
       has_schema_privilege(n.oid, 'CREATE') AND pg_has_role(current_user, c.relowner, 'MEMBER')
         AND (current_setting('is_superuser') = 'on' OR has_schema_privilege(c.relowner, n.oid, 'CREATE')) AS may_make,
       CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END AS definition, coalesce(c.reloptions, '{}') AS options,
       obj_description(c.oid, 'pg_class') AS comment,
       ARRAY(SELECT attname FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum)::text[] AS columns,
       ARRAY(SELECT format_type(atttypid, atttypmod) || ' ' || attcollation FROM pg_attribute a
              WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum)::text[] AS types,
       ARRAY(SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d
              WHERE d.deptype IN ('n', 'a') AND (d.refclassid, d.refobjid) IN (('pg_class'::regclass, c.oid), ('pg_type'::regclass, c.reltype))
                AND d.classid NOT IN ('pg_rewrite'::regclass, 'pg_type'::regclass))::text[] AS hanging,
       EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN')
         OR EXISTS (SELECT FROM pg_attrdef WHERE adrelid = c.oid) AS ruled
  FROM reading v JOIN pg_class c ON c.oid = v.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname <> 'pgduet_views' AND NOT coalesce(obj_description(n.oid, 'pg_namespace') LIKE %(ours)s || '%%', false)
 GROUP BY c.oid, n.oid, n.nspname, c.relname ORDER BY max(v.depth), c.oid

-- name: grants
-- Who may do what with a view, and with its columns.
SELECT NULL AS column, CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END AS grantee,
       x.privilege_type::text AS privilege, x.is_grantable AS grantable
  FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = %(oid)s::oid AND x.grantee <> c.relowner
 UNION ALL
SELECT a.attname::text, CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END, x.privilege_type::text, x.is_grantable
  FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = %(oid)s::oid AND NOT a.attisdropped

-- name: column_comments
SELECT a.attname AS column, col_description(a.attrelid, a.attnum) AS comment
  FROM pg_attribute a WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND col_description(a.attrelid, a.attnum) IS NOT NULL

-- name: policies
-- Policies of the table that read one of the columns.
SELECT p.polname AS name, pg_get_expr(p.polqual, p.polrelid) AS using, pg_get_expr(p.polwithcheck, p.polrelid) AS check,
       p.polrelid = to_regclass(%(relation)s) AS own, pg_describe_object('pg_policy'::regclass, p.oid, 0) AS what
  FROM pg_policy p
 WHERE p.oid IN (SELECT d.objid FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                  WHERE d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid = to_regclass(%(relation)s) AND a.attname = ANY (%(columns)s))
 ORDER BY 1

-- name: types_of
SELECT ARRAY(SELECT format_type(atttypid, atttypmod) || ' ' || attcollation FROM pg_attribute a
              WHERE a.attrelid = to_regclass(%(relation)s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum)::text[] AS types

-- name: view
CREATE OR REPLACE VIEW {view} {options} AS {definition}

-- name: options
WITH ({options})

-- name: drop_view
DROP VIEW {view} RESTRICT

-- name: nobody_else
-- Default privileges may have given the new view to somebody; only what the old one's grants say is to hold.
DO {body}

-- name: nobody_else_body
DECLARE who text;
BEGIN
  FOR who IN SELECT DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END
               FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = {view}::regclass AND x.grantee <> c.relowner
  LOOP
    EXECUTE format('REVOKE ALL ON %s FROM %s', {view}, who);
  END LOOP;
END

-- name: owner
ALTER VIEW {view} OWNER TO {role}

-- name: comment
COMMENT ON VIEW {view} IS {text}

-- name: comment_column
COMMENT ON COLUMN {view}.{column} IS {text}

-- name: grant
GRANT {right} ON {view} TO {role}{option}

-- name: grant_column
GRANT {right} ({column}) ON {view} TO {role}{option}

-- name: policy
ALTER POLICY {policy} ON {relation} {using} {check}

-- name: trial_policy
CREATE POLICY {policy} ON {relation} {using} {check}
