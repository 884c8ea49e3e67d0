-- Table locks, and who holds them.

-- name: row_exclusive
LOCK TABLE {relation} IN ROW EXCLUSIVE MODE

-- name: share_update_exclusive
LOCK TABLE {relation} IN SHARE UPDATE EXCLUSIVE MODE

-- name: share_only
LOCK TABLE ONLY {relation} IN SHARE MODE

-- name: share_row_exclusive
LOCK TABLE {relation} IN SHARE ROW EXCLUSIVE MODE

-- name: access_exclusive
LOCK TABLE {relation} IN ACCESS EXCLUSIVE MODE

-- name: all_at_once
-- One statement for all locks, so that statement_timeout bounds their sum: lock_timeout counts for each of them.
DO {body}

-- name: blocking
-- Who keeps a session waiting, whatever it waits for: an older snapshot, too. A prepared transaction has no pid.
SELECT nullif(b.pid, 0) AS pid, NULL AS gid, true AS granted, 'open transaction' AS modes, a.usename::text AS role, a.application_name AS app,
       a.state, a.backend_type = 'autovacuum worker' AS autovacuum, a.query,
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS age_s, count(*) OVER () AS total
  FROM (SELECT DISTINCT unnest(pg_blocking_pids(%(pid)s)) AS pid) b LEFT JOIN pg_stat_activity a ON a.pid = b.pid
 ORDER BY age_s DESC LIMIT 3

-- name: blockers
-- Who holds, or waits in front of us for, what conflicts with our locks: sessions, prepared transactions, autovacuum. A lock on a
-- parent is one on its partitions as well.
WITH RECURSIVE wanted (oid, mode) AS (
  SELECT to_regclass(w.relation)::oid, w.mode FROM unnest(%(relations)s::text[], %(modes)s::text[]) AS w (relation, mode)
  UNION
  SELECT i.inhrelid, w.mode FROM wanted w JOIN pg_inherits i ON i.inhparent = w.oid
), found AS (
  SELECT l.pid, CASE WHEN l.pid IS NULL THEN l.virtualtransaction END AS prepared, bool_or(l.granted) AS granted,
         string_agg(DISTINCT l.mode, ', ') AS modes
    FROM pg_locks l JOIN wanted w ON l.relation = w.oid AND l.mode = w.mode
   WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND l.pid IS DISTINCT FROM pg_backend_pid()
     AND (l.granted OR l.waitstart < clock_timestamp() - make_interval(secs => %(waited_s)s))
   GROUP BY 1, 2
)
SELECT f.pid, p.gid, f.granted, f.modes, coalesce(a.usename, p.owner)::text AS role, a.application_name AS app, a.state,
       a.backend_type = 'autovacuum worker' AS autovacuum, a.query,
       coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)), 0)::float8 AS age_s,
       count(*) OVER () AS total
  FROM found f LEFT JOIN pg_stat_activity a USING (pid)
  LEFT JOIN pg_prepared_xacts p ON f.pid IS NULL AND p.database = current_database() AND p.transaction IN (
       SELECT x.transactionid FROM pg_locks x WHERE x.locktype = 'transactionid' AND x.virtualtransaction = f.prepared AND x.pid IS NULL)
 ORDER BY f.granted DESC, age_s DESC LIMIT 3

-- name: held_up
-- Whom sessions that stand in our way wait for themselves: who is at the end of their queue, and waits for nobody.
WITH RECURSIVE queue (first, pid, met) AS (
  SELECT p, p, ARRAY[p] FROM unnest(%(pids)s::int[]) AS p
  UNION ALL
  SELECT q.first, b, q.met || b FROM queue q, unnest(pg_blocking_pids(q.pid)) AS b
   WHERE b <> ALL (q.met || pg_backend_pid()) AND cardinality(q.met) < %(most)s
)
SELECT DISTINCT ON (q.first) q.first, nullif(q.pid, 0) AS pid, NULL AS gid, true AS granted, 'open transaction' AS modes,
       a.usename::text AS role, a.application_name AS app, a.state, a.backend_type = 'autovacuum worker' AS autovacuum, a.query,
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS age_s
  FROM queue q LEFT JOIN pg_stat_activity a ON a.pid = q.pid
 WHERE q.pid <> q.first AND cardinality(pg_blocking_pids(q.pid)) = 0
 ORDER BY q.first, age_s DESC

-- name: row_holders
-- Who holds some rows: the transactions that the rows themselves name. Several that share a row are not told.
SELECT l.pid, NULL AS gid, true AS granted, 'row locks' AS modes, a.usename::text AS role, a.application_name AS app, a.state,
       false AS autovacuum, a.query, coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS age_s,
       count(*) OVER () AS total
  FROM (SELECT DISTINCT t.xmax AS xid FROM {heap} AS t WHERE {chosen} AND t.xmax::text <> '0') AS held
  JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = held.xid AND l.mode = 'ExclusiveLock' AND l.granted
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 ORDER BY age_s DESC LIMIT 3
