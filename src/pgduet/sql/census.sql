-- Who uses which version.

-- name: traffic
SELECT count(*) AS routers, coalesce(sum(reads_old), 0)::bigint AS reads_old, coalesce(sum(reads_new), 0)::bigint AS reads_new,
       coalesce(sum(errors_old), 0)::bigint AS errors_old, coalesce(sum(errors_new), 0)::bigint AS errors_new,
       coalesce(sum(seconds_old), 0)::float8 AS seconds_old, coalesce(sum(seconds_new), 0)::float8 AS seconds_new
  FROM pgduet.client WHERE migration = %(migration)s AND kind = 'router'

-- name: shadow_reads
-- What routers have compared, a row for each that does.
SELECT compared, mismatches, calibrated, noise, failed_old, failed_new, timeouts, dropped, broken, unwritten,
       shadow_seconds_old AS seconds_old, shadow_seconds_new AS seconds_new, latency
  FROM pgduet.client WHERE migration = %(migration)s AND kind = 'router' AND compared IS NOT NULL

-- name: shadow_mismatches
SELECT who, read, key, place, kind, shown, answered, seen_at FROM pgduet.shadow_mismatch
 WHERE migration = %(migration)s ORDER BY id DESC LIMIT %(most)s

-- name: sample_sessions
-- Sessions that use a version right now: by a lock on one of its views, by a role whose search_path names it, or, without either, by
-- a lock on a changed table itself (that is the oldest version, or after a swap the new one).
WITH nameable AS (SELECT * FROM unnest(%(relations)s::text[], %(table_sides)s::text[], %(table_versions)s::text[]) AS r (name, side, version)),
known AS (SELECT * FROM unnest(%(schemas)s::text[], %(versions)s::text[], %(sides)s::text[]) AS k (schema, version, side)),
held AS (
  SELECT DISTINCT l.pid, k.version, k.side
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace JOIN known k ON k.schema = n.nspname
   WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid <> pg_backend_pid()
), seen AS (
  SELECT a.pid, a.usename::text AS role, a.application_name AS app, h.side, h.version, 'view' AS via
    FROM held h JOIN pg_stat_activity a USING (pid)
  UNION
  SELECT a.pid, a.usename::text, a.application_name, t.side, t.version, 'table'
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    JOIN (SELECT to_regclass(r.name)::oid AS oid, r.side, r.version FROM nameable r
          UNION SELECT p.relid, r.side, r.version FROM nameable r, pg_partition_tree(to_regclass(r.name)) p) t ON t.oid = l.relation
   WHERE l.pid <> pg_backend_pid() AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND l.pid NOT IN (SELECT pid FROM held)
  UNION
  -- A role is of the first version that its search_path names.
  SELECT a.pid, a.usename::text, a.application_name, named.side, named.version, 'role'
    FROM pg_stat_activity a JOIN pg_db_role_setting s ON s.setrole = a.usesysid AND s.setdatabase IN (0, a.datid), unnest(s.setconfig) setting,
         LATERAL (SELECT k.side, k.version
                    FROM regexp_split_to_table(substr(setting, length('search_path=') + 1), '\s*,\s*') WITH ORDINALITY part (name, place)
                    JOIN known k ON k.schema = btrim(part.name, '" ') ORDER BY part.place LIMIT 1) named
   WHERE a.datname = current_database() AND setting LIKE 'search_path=%%'
)
INSERT INTO pgduet.client AS c (client_id, migration, kind, who, side, version, via, sessions)
SELECT format('%%s/%%s/%%s/%%s', role, app, via, version), %(migration)s, 'session',
       CASE WHEN app = '' THEN format('role %%s', role) ELSE format('%%s (role %%s)', app, role) END, side, version, via, count(DISTINCT pid)
  FROM seen WHERE role IS NOT NULL AND app NOT LIKE 'pgduet/%%' AND app NOT LIKE 'pgduet-router/%%'
 GROUP BY role, app, side, version, via
ON CONFLICT (client_id, migration, side) DO UPDATE SET last_seen = clock_timestamp(), sessions = excluded.sessions

-- name: remembered
-- Users of base tables are left out: whoever names the tables in question was seen by the migration's own census.
SELECT DISTINCT who FROM pgduet.client
 WHERE migration = %(migration)s AND kind = 'session' AND via <> 'table' AND version = ANY (%(versions)s)
   AND last_seen > clock_timestamp() - make_interval(secs => %(idle_s)s) ORDER BY who

-- name: astray
-- Routers that may still follow another migration's route to a version that is about to go: they have not heard, or their lease runs.
SELECT DISTINCT c.who, coalesce(c.epoch, 0) < r.epoch AS behind
  FROM pgduet.client c JOIN pgduet.route r USING (migration)
  LEFT JOIN pg_stat_activity a ON a.pid = c.backend_pid AND a.backend_start = c.backend_start
 WHERE c.kind = 'router' AND r.migration <> %(migration)s AND %(instead)s::text IN (r.old_version, r.new_version)
   AND (a.pid IS NOT NULL OR c.last_seen > clock_timestamp() - make_interval(secs => c.lease_s))
   AND (coalesce(c.epoch, 0) < r.epoch OR r.changed_at > clock_timestamp() - make_interval(secs => c.lease_s))
 ORDER BY c.who

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
