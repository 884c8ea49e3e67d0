-- An index while it is built or dropped CONCURRENTLY, as a second session sees it.

-- name: index_state
-- Whether a table's index is valid; no row where it is not there.
SELECT i.indisvalid AS valid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = to_regclass(%(relation)s) AND c.relname = %(name)s

-- name: progress
SELECT phase, CASE WHEN blocks_total > 0 THEN 100 * blocks_done / blocks_total WHEN tuples_total > 0 THEN 100 * tuples_done / tuples_total END AS percent
  FROM pg_stat_progress_create_index WHERE pid = %(pid)s

-- name: queued
-- Who waits behind the build for a lock that clients' own locks would queue behind; a foreign key is validated with a lock on its
-- target, too.
SELECT l.pid FROM pg_locks l
 WHERE NOT l.granted AND l.locktype = 'relation'
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   AND l.waitstart < clock_timestamp() - %(budget_ms)s * interval '1 ms' AND l.pid <> %(pid)s
   AND %(pid)s = ANY (pg_blocking_pids(l.pid))
