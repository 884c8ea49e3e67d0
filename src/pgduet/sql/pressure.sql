-- What a backfill must not make worse. Asked often, so each costs little: views of shared memory, and one row of ours.

-- name: pressure
-- Standbys tell how far they have replayed; a walsender that replays nothing (a backup, pg_receivewal) is none, and neither is one
-- that decodes: a consumer confirms when it likes, and what it keeps back is seen at its slot. A slot that is lost is past help.
-- Vacuums are shown of all databases, and a copy of a database has the numbers of its tables; a partition counts as its parent.
WITH here AS (SELECT pg_current_wal_lsn() AS lsn)
SELECT clock_timestamp() AS now, pg_wal_lsn_diff(lsn, '0/0')::bigint AS wal,
       (SELECT controls FROM pgduet.migration WHERE id = %(id)s) AS controls,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('name', r.application_name, 'replayed', pg_wal_lsn_diff(r.replay_lsn, '0/0')::bigint,
                                                     'told_s', extract(epoch FROM r.replay_lag)::float8)), '[]')
          FROM pg_stat_replication r
         WHERE r.replay_lsn IS NOT NULL
           AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')) AS standbys,
       (SELECT coalesce(jsonb_agg(s), '[]')
          FROM (SELECT slot_name AS name, active, (pg_wal_lsn_diff(lsn, restart_lsn) / 1048576)::float8 AS retained_mb,
                       (safe_wal_size / 1048576.0)::float8 AS safe_mb, wal_status = 'unreserved' AS unreserved,
                       (pg_size_bytes(nullif(current_setting('max_slot_wal_keep_size'), '-1')) / 1048576.0)::float8 AS keep_mb
                  FROM pg_replication_slots WHERE restart_lsn IS NOT NULL AND wal_status <> 'lost'
                 ORDER BY restart_lsn LIMIT 20) AS s) AS slots,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('relation', v.relid::regclass::text,
                                                     'auto', a.backend_type = 'autovacuum worker',
                                                     'wraparound', a.query LIKE '%%(to prevent wraparound)',
                                                     'running_s', extract(epoch FROM clock_timestamp() - a.query_start)::float8)), '[]')
          FROM pg_stat_progress_vacuum v JOIN pg_stat_get_activity(NULL) a USING (pid)
         WHERE v.datname = current_database()
           AND ARRAY(SELECT v.relid::regclass UNION SELECT a.relid FROM pg_partition_ancestors(v.relid) AS a (relid))
               && ARRAY(SELECT to_regclass(t) FROM unnest(%(relations)s::text[]) AS t)) AS vacuums
  FROM here

-- name: told
-- What somebody has said, and when it is.
SELECT clock_timestamp() AS now, (SELECT controls FROM pgduet.migration WHERE id = %(id)s) AS controls

-- name: blocked
-- Clients that wait for a lock which a batch of ours holds. Others than clients wait too: ranges for each other. The locks are read
-- where somebody waits, and once for all who do: when many wait, a look must not be what they wait for.
WITH waits AS MATERIALIZED (SELECT l.pid, min(l.waitstart) AS since FROM pg_locks l WHERE NOT l.granted GROUP BY l.pid)
SELECT count(*)::int AS clients,
       coalesce(extract(epoch FROM clock_timestamp() - min((SELECT since FROM waits WHERE waits.pid = w.pid))), 0)::float8 * 1000 AS longest_ms
  FROM pg_stat_get_activity(NULL) w
 WHERE w.wait_event_type = 'Lock' AND w.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND w.application_name NOT LIKE 'pgduet/%%'
   AND EXISTS (SELECT FROM pg_stat_get_activity(NULL) o WHERE o.pid = ANY (pg_blocking_pids(w.pid)) AND o.application_name = %(ours)s)

-- name: running
-- Statements of clients in progress, on the whole server: processors and disks are shared. Ours and ourselves left out.
SELECT count(*)::int AS clients FROM pg_stat_get_activity(NULL)
 WHERE state = 'active' AND backend_type = 'client backend' AND application_name NOT LIKE 'pgduet/%%'

-- name: replayed
-- Asked of a standby itself.
SELECT pg_is_in_recovery() AS standby, CASE WHEN pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint END AS replayed
