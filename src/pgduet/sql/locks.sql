-- Table locks, and who holds them.

-- name: row_exclusive
LOCK TABLE {relation} IN ROW EXCLUSIVE MODE

-- name: share_update_exclusive
LOCK TABLE {relation} IN SHARE UPDATE EXCLUSIVE MODE

-- name: share_row_exclusive
LOCK TABLE {relation} IN SHARE ROW EXCLUSIVE MODE

-- name: access_exclusive
LOCK TABLE {relation} IN ACCESS EXCLUSIVE MODE

-- name: blockers
SELECT DISTINCT a.pid, a.usename AS role, a.application_name AS app, coalesce(a.state, a.backend_type) AS state,
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS age_s, l.mode
  FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE l.relation = ANY (SELECT to_regclass(r) FROM unnest(%(relations)s::text[]) r) AND l.granted AND l.pid <> pg_backend_pid()
 ORDER BY age_s DESC LIMIT 3
