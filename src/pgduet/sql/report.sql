-- What a report rests on: read in one snapshot, nothing is written.

-- name: now
SELECT clock_timestamp() AS at, current_setting('server_version') AS version

-- name: attempts
-- The newest first.
SELECT id, attempt, checksum, from_version, to_version, plan, design, phase, state, authority, controls, compensations, started_at,
       ended_at, count(*) OVER () AS total
  FROM pgduet.migration WHERE name = %(name)s ORDER BY attempt DESC LIMIT %(most)s

-- name: entries
SELECT seq, at, actor, action, affected, reason, evidence FROM pgduet.audit WHERE migration = %(name)s ORDER BY seq

-- name: filled
SELECT migration_id, sum(rows_done)::bigint AS rows, sum(batches)::bigint AS batches,
       sum(cursor_block - block_from)::bigint AS pages_done, sum(block_to - block_from)::bigint AS pages
  FROM pgduet.backfill_range WHERE migration_id = ANY (%(ids)s) GROUP BY migration_id

-- name: drift
SELECT migration_id, relation, kind, count(*) AS rows, count(*) FILTER (WHERE resolved_at IS NULL) AS open,
       min(seen_at) AS first_at, max(seen_at) AS last_at
  FROM pgduet.drift WHERE migration_id = ANY (%(ids)s) GROUP BY migration_id, relation, kind ORDER BY relation, kind

-- name: kept
SELECT attempt, relation, side, count(*) AS saved, count(restored_at) AS restored
  FROM pgduet_archive.value WHERE migration = %(name)s GROUP BY attempt, relation, side ORDER BY attempt, relation, side

-- name: kept_table
SELECT pg_total_relation_size(c.oid)::bigint AS bytes
  FROM pg_class c WHERE c.relnamespace = to_regnamespace('pgduet_archive') AND c.relname = %(table)s

-- name: clients
SELECT kind, who, side, version, via, sessions, reads_old, reads_new, errors_old, errors_new, first_seen AS first_at, last_seen AS last_at
  FROM pgduet.client WHERE migration = %(name)s ORDER BY last_seen DESC LIMIT %(most)s

-- name: builds_on_it
SELECT name FROM pgduet.migration WHERE ended_at IS NULL AND id > %(id)s ORDER BY id

-- name: table_now
-- Statistics are looked for where a table has rows: an empty one needs none.
SELECT pg_total_relation_size(c.oid)::bigint AS bytes, coalesce(s.n_live_tup, 0)::bigint AS live, coalesce(s.n_dead_tup, 0)::bigint AS dead,
       greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at, greatest(s.last_analyze, s.last_autoanalyze) AS analysed_at,
       ARRAY(SELECT i.relname::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
              WHERE x.indrelid = c.oid AND NOT x.indisvalid ORDER BY 1) AS invalid_indexes,
       ARRAY(SELECT k.conname::text FROM pg_constraint k WHERE k.conrelid = c.oid AND NOT k.convalidated ORDER BY 1) AS not_validated,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attname = ANY (%(columns)s) AND NOT a.attisdropped AND pg_relation_size(c.oid) > 0
                AND NOT EXISTS (SELECT FROM pg_stats t WHERE t.schemaname = n.nspname AND t.tablename = c.relname AND t.attname = a.attname)
              ORDER BY 1) AS without_statistics,
       ARRAY(SELECT 'column ' || a.attname FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY (%(ours)s)
             UNION ALL
             SELECT 'trigger ' || t.tgname FROM pg_trigger t
              WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname = ANY (%(triggers)s)) AS leftovers
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
 WHERE c.oid = to_regclass(%(label)s)

-- name: show_values
SELECT relation, key, kept FROM pgduet_archive.value WHERE migration = {name} AND attempt = {attempt} AND side = {side}

-- name: show_table
SELECT * FROM pgduet_archive.{table}
