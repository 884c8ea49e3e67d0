-- Who uses which version.

-- name: traffic
-- Totals of all routers that there were: what one that has gone had counted stays. What releases before did not report is not there.
-- Any role can have reported: what can be no count is left out, and no lease is longer than a week, as in
-- `report_client` of a database that was set up since.
SELECT count(*) AS routers,
       coalesce(sum(c.reads_old) FILTER (WHERE c.reads_old BETWEEN 0 AND 1e12), 0)::bigint AS reads_old,
       coalesce(sum(c.reads_new) FILTER (WHERE c.reads_new BETWEEN 0 AND 1e12), 0)::bigint AS reads_new,
       coalesce(sum(c.errors_old) FILTER (WHERE c.errors_old BETWEEN 0 AND 1e12), 0)::bigint AS errors_old,
       coalesce(sum(c.errors_new) FILTER (WHERE c.errors_new BETWEEN 0 AND 1e12), 0)::bigint AS errors_new,
       coalesce(sum(c.seconds_old) FILTER (WHERE c.seconds_old BETWEEN 0 AND 1e12), 0)::float8 AS seconds_old,
       coalesce(sum(c.seconds_new) FILTER (WHERE c.seconds_new BETWEEN 0 AND 1e12), 0)::float8 AS seconds_new,
       coalesce(sum(t.compared) FILTER (WHERE t.compared BETWEEN 0 AND 1e12), 0)::bigint AS compared,
       coalesce(sum(t.mismatches) FILTER (WHERE t.mismatches BETWEEN 0 AND 1e12), 0)::bigint AS mismatches,
       coalesce(sum(t.calibrated) FILTER (WHERE t.calibrated BETWEEN 0 AND 1e12), 0)::bigint AS calibrated,
       coalesce(sum(t.noise) FILTER (WHERE t.noise BETWEEN 0 AND 1e12), 0)::bigint AS noise,
       coalesce(sum(t.failed_new) FILTER (WHERE t.failed_new BETWEEN 0 AND 1e12), 0)::bigint AS failed,
       count(*) FILTER (WHERE c.side = 'new' AND (c.last_seen > clock_timestamp() - make_interval(secs => least(greatest(c.lease_s, 0), 604800))
                                                  OR EXISTS (SELECT FROM pg_stat_activity a
                                                              WHERE a.pid = c.backend_pid AND (a.backend_start = c.backend_start) IS NOT FALSE)))
         AS routers_new
  FROM pgduet.client c,
       jsonb_to_record(to_jsonb(c)) AS t (compared bigint, mismatches bigint, calibrated bigint, noise bigint, failed_new bigint)
 WHERE c.migration = %(migration)s AND c.kind = 'router'

-- name: behind
-- Routers that are connected and have not told since the route changed.
SELECT count(*) AS routers
  FROM pgduet.client c JOIN pgduet.route r USING (migration)
  JOIN pg_stat_activity a ON a.pid = c.backend_pid AND (a.backend_start = c.backend_start) IS NOT FALSE
 WHERE c.kind = 'router' AND c.migration = %(migration)s AND coalesce(c.epoch, 0) < r.epoch

-- name: answered
-- How many reads that callers waited for fell into each bucket of latencies. Any role can have reported: what is no sketch is left out.
SELECT side.key AS side, bucket.key AS bucket, sum(bucket.value::text::numeric)::bigint AS reads
  FROM pgduet.client c, LATERAL (SELECT to_jsonb(c) -> 'latency') AS told (latency),
       jsonb_each(CASE WHEN jsonb_typeof(told.latency) = 'object' THEN told.latency END) side,
       jsonb_each(CASE WHEN jsonb_typeof(side.value) = 'object' THEN side.value END) bucket
 WHERE c.migration = %(migration)s AND c.kind = 'router' AND side.key IN ('answered_old', 'answered_new')
   AND CASE WHEN bucket.key ~ '^[0-9]{1,4}$' AND jsonb_typeof(bucket.value) = 'number' THEN bucket.value::text::numeric BETWEEN 1 AND 1e12 END
 GROUP BY 1, 2

-- name: shadow_reads
-- What routers have compared, a row for each that does.
SELECT compared, mismatches, calibrated, noise, failed_old, failed_new, timeouts, dropped, broken, unwritten,
       shadow_seconds_old AS seconds_old, shadow_seconds_new AS seconds_new, latency
  FROM pgduet.client WHERE migration = %(migration)s AND kind = 'router' AND compared IS NOT NULL

-- name: shadow_mismatches
SELECT who, read, key, place, kind, shown, answered, seen_at FROM pgduet.shadow_mismatch
 WHERE migration = %(migration)s ORDER BY id DESC LIMIT %(most)s

-- name: sample_sessions
-- Sessions that use a version right now: by a lock on one of its views, by a role whose search_path names it, by a last statement that
-- names the old version (its schema, or a table with what only that version has), or, without a view, by a lock on a changed table
-- itself (that is the oldest version, or after a swap the new one). Backends that were seen by a view or a statement are kept by their
-- number: what they have prepared stays with them. So are those of a role that is set to a version: they began with it, whatever the role is set
-- to meanwhile, so what is seen first of a backend holds. Locks are read once: a client's lock on a view is never younger than on its table.
WITH nameable AS (SELECT * FROM unnest(%(relations)s::text[], %(table_sides)s::text[], %(table_versions)s::text[]) AS r (name, side, version)),
known AS (SELECT * FROM unnest(%(schemas)s::text[], %(versions)s::text[], %(sides)s::text[], %(patterns)s::text[]) AS k (schema, version, side, pattern)),
only_old AS (SELECT * FROM unnest(%(old_tables)s::text[], %(old_names)s::text[]) AS o (table_pattern, name_pattern)),
locks AS MATERIALIZED (
  SELECT DISTINCT l.pid, l.relation FROM pg_locks l
   WHERE l.relation IS NOT NULL AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid <> pg_backend_pid()
), sessions AS MATERIALIZED (
  SELECT a.pid, a.backend_start, a.usesysid, a.usename::text AS role, a.application_name AS app, a.datid, a.datname, a.query
    FROM pg_stat_activity a
   WHERE a.usename IS NOT NULL AND a.application_name NOT LIKE 'pgduet/%%' AND a.application_name NOT LIKE 'pgduet-router/%%'
     AND a.application_name NOT IN ('pg_dump', 'pg_dumpall', 'vacuumdb', 'reindexdb')  -- they ask the catalogue what there is
), held AS (
  SELECT DISTINCT l.pid, k.version, k.side
    FROM locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace JOIN known k ON k.schema = n.nspname
), role_begins AS MATERIALIZED (
  -- A session begins with what is set for its role here, else for its role, else for the database: it is of the first version named there.
  SELECT role.usesysid, named.side, named.version
    FROM (SELECT DISTINCT usesysid, datid FROM sessions WHERE datname = current_database()) role,
         LATERAL (SELECT setting FROM pg_db_role_setting s, unnest(s.setconfig) setting
                   WHERE s.setrole IN (role.usesysid, 0) AND s.setdatabase IN (role.datid, 0) AND setting LIKE 'search_path=%%'
                   ORDER BY s.setrole = 0, s.setdatabase = 0 LIMIT 1) begun,
         LATERAL (SELECT k.side, k.version
                    FROM regexp_split_to_table(substr(setting, length('search_path=') + 1), '\s*,\s*') WITH ORDINALITY part (name, place)
                    JOIN known k ON k.schema = btrim(part.name, '" ') ORDER BY part.place LIMIT 1) named
), of_role AS (
  SELECT a.pid, r.side, r.version FROM sessions a JOIN role_begins r USING (usesysid) WHERE a.datname = current_database()
), said AS (
  SELECT a.pid, k.side, k.version FROM sessions a JOIN known k ON a.query ~* k.pattern WHERE a.datname = current_database()
), said_of_old AS (
  SELECT DISTINCT a.pid, 'old' AS side, %(base)s::text AS version FROM sessions a JOIN only_old o ON a.query ~* o.table_pattern AND a.query ~* o.name_pattern
   WHERE a.datname = current_database() AND a.pid NOT IN (SELECT pid FROM said) AND a.pid NOT IN (SELECT pid FROM of_role)
     AND a.pid NOT IN (SELECT pid FROM held)  -- whose transaction shows the version, whatever words it uses
), seen AS (
  SELECT pid, side, version, 'view' AS via FROM held
  UNION
  SELECT l.pid, t.side, t.version, 'table'
    FROM locks l
    JOIN (SELECT to_regclass(r.name)::oid AS oid, r.side, r.version FROM nameable r
          UNION SELECT p.relid, r.side, r.version FROM nameable r, pg_partition_tree(to_regclass(r.name)) p) t ON t.oid = l.relation
   WHERE l.pid NOT IN (SELECT pid FROM held)
  UNION
  SELECT pid, side, version, 'role' FROM of_role
  UNION
  SELECT pid, side, version, 'statement' FROM (TABLE said UNION TABLE said_of_old) each
), found AS (
  SELECT s.*, a.backend_start, a.role, a.app,
         CASE WHEN a.app = '' THEN format('role %%s', a.role) ELSE format('%%s (role %%s)', a.app, a.role) END AS who
    FROM seen s JOIN sessions a USING (pid)
), kept AS (
  INSERT INTO pgduet.seen_session AS k (migration, pid, side, backend_start, role, version, via, who, last_seen)
  SELECT DISTINCT ON (pid, side) %(migration)s, pid, side, backend_start, role, version, via, who, statement_timestamp()
    FROM found f
   WHERE via IN ('view', 'statement')
      OR (via = 'role' AND NOT EXISTS (SELECT FROM pgduet.seen_session b
                                        WHERE b.migration = %(migration)s AND b.pid = f.pid AND b.side <> f.side AND b.via = 'role'
                                          AND (b.backend_start = f.backend_start) IS NOT FALSE))
   ORDER BY pid, side, version, via = 'role' DESC, via DESC
  ON CONFLICT (migration, pid, side) DO UPDATE
     SET backend_start = excluded.backend_start, role = excluded.role, version = excluded.version, who = excluded.who,
         via = CASE WHEN k.via = 'role' AND (k.backend_start = excluded.backend_start) IS NOT FALSE THEN k.via ELSE excluded.via END,
         last_seen = excluded.last_seen
   WHERE excluded.via <> 'role' OR k.last_seen < excluded.last_seen - interval '5 s' OR (k.backend_start = excluded.backend_start) IS NOT TRUE
)
INSERT INTO pgduet.client AS c (client_id, migration, kind, who, side, version, via, sessions)
SELECT format('%%s/%%s/%%s/%%s', role, app, via, version), %(migration)s, 'session', who, side, version, via, count(DISTINCT pid)
  FROM found WHERE via <> 'statement' OR side = 'old'
 GROUP BY role, app, who, side, version, via
ON CONFLICT (client_id, migration, side) DO UPDATE SET last_seen = clock_timestamp(), sessions = excluded.sessions

-- name: forget_ended
-- Backends that have ended take what they had prepared with them. When one began is null where the worker's role may not see it; it may
-- have been granted that since, or have lost it.
DELETE FROM pgduet.seen_session s
 WHERE s.migration = %(migration)s
   AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = s.pid AND (a.backend_start = s.backend_start) IS NOT FALSE AND a.usename = s.role)

-- name: lingering
-- Backends that were seen at the old version, live, and were not seen at the new one since. Whether what they prepared there is still with
-- them, nothing in the server tells: so they count. And those that began with either version, and were not seen at the other one.
SELECT s.side, s.who, s.version, s.via, s.pid, s.last_seen, extract(epoch FROM clock_timestamp() - s.last_seen)::float8 AS idle_s
  FROM pgduet.seen_session s
 WHERE s.migration = %(migration)s AND (s.side = 'old' OR s.via = 'role')
   AND NOT EXISTS (SELECT FROM pgduet.seen_session n
                    WHERE n.migration = s.migration AND n.pid = s.pid AND n.side <> s.side AND n.via <> 'role' AND n.last_seen > s.last_seen
                      AND (n.backend_start = s.backend_start) IS NOT FALSE)
 ORDER BY s.who, s.pid

-- name: set_to
-- Whose sessions begin with a search_path that names one of these schemas, now or whenever they come.
SELECT DISTINCT coalesce(r.rolname::text, format('every role in %%I', current_database())) AS who
  FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) setting,
       regexp_split_to_table(substr(setting, length('search_path=') + 1), '\s*,\s*') part
 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) AND setting LIKE 'search_path=%%'
   AND btrim(part, '" ') = ANY (%(schemas)s::text[])
 ORDER BY who

-- name: hidden
-- Sessions whose last statement the worker's role may not see.
SELECT count(*) AS sessions FROM pg_stat_activity WHERE datname = current_database() AND query = '<insufficient privilege>'

-- name: statements_at
SELECT n.nspname::text AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'

-- name: statements
-- Roles whose statements that name the old version were run since the last look. A count that has fallen was reset, and began anew. The
-- row of zeros says that there was a look before: without one, no count has grown.
WITH known AS (SELECT * FROM unnest(%(versions)s::text[], %(patterns)s::text[]) AS k (version, pattern)),
before AS (SELECT EXISTS (SELECT FROM pgduet.seen_statement WHERE migration = %(migration)s) AS looked),
counted AS (
  SELECT s.userid, s.queryid, k.version, sum(s.calls)::bigint AS calls
    FROM {statements} s JOIN known k ON s.query ~* k.pattern
   WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.queryid IS NOT NULL
     AND s.userid <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
   GROUP BY s.userid, s.queryid, k.version
), grown AS (
  SELECT c.userid, c.version FROM before, counted c
    LEFT JOIN pgduet.seen_statement s ON s.migration = %(migration)s AND s.userid = c.userid AND s.queryid = c.queryid
   WHERE before.looked AND c.calls <> coalesce(s.calls, 0)
), kept AS (
  INSERT INTO pgduet.seen_statement AS k (migration, userid, queryid, calls)
  SELECT %(migration)s, userid, queryid, max(calls) FROM counted GROUP BY userid, queryid
  UNION ALL SELECT %(migration)s, 0::oid, 0, 0
  ON CONFLICT (migration, userid, queryid) DO UPDATE SET calls = excluded.calls
)
INSERT INTO pgduet.client AS c (client_id, migration, kind, who, side, version, via, sessions)
SELECT DISTINCT format('%%s//pg_stat_statements/%%s', r.rolname, g.version), %(migration)s, 'session', format('role %%s', r.rolname), 'old',
       g.version, 'pg_stat_statements', 1
  FROM grown g JOIN pg_roles r ON r.oid = g.userid
ON CONFLICT (client_id, migration, side) DO UPDATE SET last_seen = clock_timestamp()

-- name: remembered
-- Users of base tables are left out: whoever names the tables in question was seen by the migration's own census.
SELECT DISTINCT who FROM pgduet.client
 WHERE migration = %(migration)s AND kind = 'session' AND via <> 'table' AND version = ANY (%(versions)s)
   AND last_seen > clock_timestamp() - make_interval(secs => %(idle_s)s) ORDER BY who

-- name: astray
-- Routers that may still follow another migration's route to a version that is about to go: they have not heard, or their lease runs.
SELECT DISTINCT left(c.who, 200) AS who, coalesce(c.epoch, 0) < r.epoch AS behind
  FROM pgduet.client c JOIN pgduet.route r USING (migration)
  LEFT JOIN pg_stat_activity a ON a.pid = c.backend_pid AND (a.backend_start = c.backend_start) IS NOT FALSE,
       LATERAL (SELECT make_interval(secs => least(greatest(c.lease_s, 0), 604800)) AS runs) lease
 WHERE c.kind = 'router' AND r.migration <> %(migration)s AND %(instead)s::text IN (r.old_version, r.new_version)
   AND (a.pid IS NOT NULL OR c.last_seen > clock_timestamp() - lease.runs)
   AND (coalesce(c.epoch, 0) < r.epoch OR r.changed_at > clock_timestamp() - lease.runs)
 ORDER BY who

-- name: clients
-- A router is there while its connection lives or its lease may still run. One of the old version is remembered beyond that, as a session
-- is: what has gone without a word may come back with what it last heard. Routers of a service are one client: a service that is deployed
-- often, or serves by processes that live for minutes, leaves thousands behind. What a router decided before the last change may be acted
-- upon until its lease is over (`acting`). One that was gone when the new version took over, its reads there already, is remembered, too
-- (`missed`): a process that was frozen goes by the authority that it knew until it has heard again.
SELECT left(c.who, 200) AS who, c.side, left(c.version, 100) AS version, c.via, max(c.last_seen) AS last_seen,
       sum(CASE WHEN c.kind = 'session' OR present.there THEN c.sessions ELSE 0 END)::int AS sessions, present.there,
       present.there AND coalesce(c.epoch, 0) < coalesce(r.epoch, 0) AS behind,
       present.there AND coalesce(clock_timestamp() - r.changed_at <= lease.runs, true) AS acting, gone.missed
  FROM pgduet.client c LEFT JOIN pgduet.route r USING (migration)
  LEFT JOIN pg_stat_activity a ON a.pid = c.backend_pid AND (a.backend_start = c.backend_start) IS NOT FALSE,
       LATERAL (SELECT make_interval(secs => coalesce(least(greatest(c.lease_s, 0), 604800), 0)) AS runs) lease,
       LATERAL (SELECT c.kind = 'router' AND (a.pid IS NOT NULL OR c.last_seen > clock_timestamp() - lease.runs) AS there) present,
       LATERAL (SELECT c.kind = 'router' AND NOT present.there AND c.side = 'new' AND coalesce(c.last_seen < (
                  SELECT m.flipped_at FROM pgduet.migration m WHERE m.name = c.migration ORDER BY m.attempt DESC LIMIT 1), false) AS missed) gone
 WHERE c.migration = %(migration)s
   AND (present.there OR ((c.kind = 'session' OR c.side = 'old' OR gone.missed) AND c.last_seen > clock_timestamp() - make_interval(secs => %(idle_s)s)))
 GROUP BY 1, 2, 3, 4, 7, 8, 9, 10
 ORDER BY 2, 1
