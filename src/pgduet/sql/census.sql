-- Who uses which version.

-- name: traffic
SELECT count(*) AS routers, coalesce(sum(reads_old), 0)::bigint AS reads_old, coalesce(sum(reads_new), 0)::bigint AS reads_new,
       coalesce(sum(errors_old), 0)::bigint AS errors_old, coalesce(sum(errors_new), 0)::bigint AS errors_new,
       coalesce(sum(seconds_old), 0)::float8 AS seconds_old, coalesce(sum(seconds_new), 0)::float8 AS seconds_new
  FROM pgduet.client WHERE migration = %(migration)s AND kind = 'router'

-- name: sample_sessions
-- Sessions that use a version right now: by a lock on one of its views, by a role whose search_path names it, or, without either, by
-- a lock on a changed table itself (that is the oldest version).
WITH held AS (
  SELECT pid, relation FROM pg_locks
   WHERE pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), seen AS (
  SELECT a.pid, a.usename::text AS role, a.application_name AS app, 'new' AS side, 'view' AS via
    FROM held l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_stat_activity a USING (pid)
   WHERE n.nspname = ANY (%(new_schemas)s)
  UNION
  SELECT a.pid, a.usename::text, a.application_name, 'old', 'view'
    FROM held l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_stat_activity a USING (pid)
   WHERE n.nspname = ANY (%(old_schemas)s)
  UNION
  SELECT a.pid, a.usename::text, a.application_name, 'old', 'table'
    FROM held l JOIN pg_stat_activity a USING (pid)
   WHERE l.relation = ANY (SELECT to_regclass(r) FROM unnest(%(relations)s::text[]) r)
     AND NOT EXISTS (SELECT FROM held v JOIN pg_class c ON c.oid = v.relation JOIN pg_namespace n ON n.oid = c.relnamespace
                      WHERE v.pid = l.pid AND n.nspname = ANY (%(new_schemas)s || %(old_schemas)s))
  UNION
  SELECT a.pid, a.usename::text, a.application_name, CASE WHEN setting LIKE ANY (%(new_patterns)s) THEN 'new' ELSE 'old' END, 'role'
    FROM pg_stat_activity a JOIN pg_db_role_setting s ON s.setrole = a.usesysid AND s.setdatabase IN (0, a.datid), unnest(s.setconfig) setting
   WHERE a.datname = current_database() AND setting LIKE 'search_path=%%'
     AND (setting LIKE ANY (%(new_patterns)s) OR setting LIKE ANY (%(old_patterns)s))
)
INSERT INTO pgduet.client AS c (client_id, migration, kind, who, side, version, via, sessions)
SELECT format('%%s/%%s/%%s', role, app, via), %(migration)s, 'session',
       CASE WHEN app = '' THEN format('role %%s', role) ELSE format('%%s (role %%s)', app, role) END, side,
       CASE side WHEN 'new' THEN %(new_version)s::text ELSE %(old_version)s::text END, via, count(DISTINCT pid)
  FROM seen WHERE role IS NOT NULL AND app NOT LIKE 'pgduet/%%' AND app NOT LIKE 'pgduet-router/%%'
 GROUP BY role, app, side, via
ON CONFLICT (client_id, migration, side) DO UPDATE SET last_seen = clock_timestamp(), sessions = excluded.sessions

-- name: clients
-- A router counts while its connection lives or its lease may still run; a session as long as it is remembered.
SELECT c.who, c.side, c.version, c.via, c.kind, c.sessions, c.last_seen, c.epoch, coalesce(c.lease_s, 0) AS lease_s,
       extract(epoch FROM clock_timestamp() - c.last_seen)::float8 AS idle_s,
       (a.pid IS NOT NULL) AS connected
  FROM pgduet.client c
  LEFT JOIN pg_stat_activity a ON a.pid = c.backend_pid AND a.backend_start = c.backend_start
 WHERE c.migration = %(migration)s
   AND CASE c.kind WHEN 'router' THEN a.pid IS NOT NULL OR c.last_seen > clock_timestamp() - make_interval(secs => c.lease_s)
                   ELSE c.last_seen > clock_timestamp() - make_interval(secs => %(idle_s)s) END
 ORDER BY c.side, c.who

-- name: forget
-- A new run counts anew.
DELETE FROM pgduet.client WHERE migration = %(migration)s AND kind = 'session'
