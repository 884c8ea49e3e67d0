-- The state of migrations, kept beside the data so that a lost workflow can be adopted.

-- name: is_set_up
SELECT to_regclass('pgduet.audit') IS NOT NULL AND to_regclass('pgduet.route') IS NOT NULL AS ready

-- name: is_complete
-- With what later releases brought as well.
SELECT to_regclass('pgduet.audit') IS NOT NULL AND to_regclass('pgduet.suspect') IS NOT NULL
   AND to_regclass('pgduet.seen_statement') IS NOT NULL AND to_regclass('pgduet.key_cursor') IS NOT NULL AND to_regclass('pgduet.emptied') IS NOT NULL
   AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('pgduet.comparison') AND attname = 'request')
   AND to_regclass('pgduet.paired_write') IS NOT NULL AS ready

-- name: latest
SELECT m.*, r.read_percent FROM pgduet.migration m LEFT JOIN pgduet.route r ON r.migration = m.name
 WHERE m.name = %(name)s ORDER BY m.attempt DESC LIMIT 1

-- name: by_id
SELECT m.*, r.read_percent FROM pgduet.migration m LEFT JOIN pgduet.route r ON r.migration = m.name WHERE m.id = %(id)s

-- name: live
-- Migrations that have not ended, the oldest first.
SELECT id, name, phase, state, authority, design, plan, workflow_id, published_at, controls FROM pgduet.migration
 WHERE ended_at IS NULL ORDER BY id

-- name: links
-- The chain of versions: every migration that was not rolled back, live or done, the oldest first.
SELECT id, name, from_version, to_version, phase, ended_at IS NOT NULL AS ended,
       coalesce((controls ->> 'no_return')::boolean, false) AS no_return
  FROM pgduet.migration WHERE state <> 'rolled_back' ORDER BY id

-- name: insert
INSERT INTO pgduet.migration (name, database, attempt, checksum, from_version, to_version, plan, design, workflow_id, phase, state)
VALUES (%(name)s, %(database)s, %(attempt)s, %(checksum)s, %(from_version)s, %(to_version)s, %(plan)s, %(design)s,
        %(workflow_id)s, 'preflight', 'running')
RETURNING id

-- name: record
UPDATE pgduet.migration
   SET phase = %(phase)s, state = %(state)s, compensations = %(compensations)s, updated_at = clock_timestamp(),
       ended_at = CASE WHEN %(state)s IN ('done', 'rolled_back') THEN clock_timestamp() END
 WHERE id = %(id)s

-- name: set_design
-- Names that a swap has changed: in the transaction that changes them.
UPDATE pgduet.migration SET design = %(design)s, updated_at = clock_timestamp() WHERE id = %(id)s

-- name: set_mode
UPDATE pgduet.migration SET sync_mode = %(mode)s, updated_at = clock_timestamp() WHERE id = %(id)s

-- name: set_published
UPDATE pgduet.migration SET published_at = CASE WHEN %(published)s THEN clock_timestamp() END WHERE id = %(id)s

-- name: set_authority
UPDATE pgduet.migration
   SET authority = %(authority)s, sync_mode = %(mode)s,
       flipped_at = CASE WHEN %(authority)s = 'new' THEN clock_timestamp() END, updated_at = clock_timestamp()
 WHERE id = %(id)s

-- name: set_parity
UPDATE pgduet.migration SET parity = %(parity)s, updated_at = clock_timestamp() WHERE id = %(id)s

-- name: set_controls
UPDATE pgduet.migration SET controls = (controls - %(reset)s::text[]) || %(controls)s, updated_at = clock_timestamp() WHERE id = %(id)s

-- name: controls
SELECT controls FROM pgduet.migration WHERE id = %(id)s

-- name: drift_add
SELECT pgduet.note_drift(%(id)s, %(relation)s, %(key)s, %(kind)s, %(detail)s)

-- name: drift_clear
-- A full comparison is the truth about a table: what it does not find again is resolved. Tables in another shape have their own.
UPDATE pgduet.drift SET resolved_at = clock_timestamp()
 WHERE migration_id = %(id)s AND resolved_at IS NULL AND seen_at < %(before)s AND relation <> ALL (%(elsewhere)s::text[])

-- name: route_insert
INSERT INTO pgduet.route (migration, database, old_version, new_version, schemas)
VALUES (%(migration)s, %(database)s, %(old_version)s, %(new_version)s, %(schemas)s)
ON CONFLICT (migration) DO UPDATE
   SET old_version = excluded.old_version, new_version = excluded.new_version, schemas = excluded.schemas

-- name: route_change
UPDATE pgduet.route
   SET read_percent = coalesce(%(read_percent)s::smallint, read_percent), authority = coalesce(%(authority)s::text, authority),
       published = coalesce(%(published)s::boolean, published), epoch = epoch + 1, changed_at = clock_timestamp()
 WHERE migration = %(migration)s
RETURNING epoch, read_percent, authority, published

-- name: can_compare
-- A database that an earlier release has set up cannot be told; its routers compare nothing.
SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('pgduet.route') AND attname = 'comparing') AS can

-- name: route_compare
UPDATE pgduet.route SET comparing = %(comparing)s, epoch = epoch + 1, changed_at = clock_timestamp()
 WHERE migration = %(migration)s AND comparing <> %(comparing)s RETURNING epoch

-- name: route_notify
SELECT pg_notify('pgduet_route', %(migration)s)

-- name: route
SELECT *, extract(epoch FROM clock_timestamp() - changed_at)::float8 AS age_s FROM pgduet.route WHERE migration = %(migration)s

-- name: ranges_insert
INSERT INTO pgduet.backfill_range (migration_id, relation, part, block_from, block_to, cursor_block, relfilenode)
VALUES (%(id)s, %(relation)s::text, %(part)s, %(block_from)s::bigint, %(block_to)s, %(block_from)s::bigint, pg_relation_filenode(%(relation)s::text::regclass))
ON CONFLICT DO NOTHING

-- name: mark_wal
-- Where the server's WAL was when the backfill began first: what is inserted counts, batches do not wait for the disk.
UPDATE pgduet.migration SET controls = jsonb_build_object('wal_at_backfill', pg_current_wal_insert_lsn()::text) || controls WHERE id = %(id)s

-- name: wal_since
SELECT (pg_wal_lsn_diff(pg_current_wal_insert_lsn(), (controls ->> 'wal_at_backfill')::pg_lsn) / 1048576)::float8 AS mb
  FROM pgduet.migration WHERE id = %(id)s

-- name: add_held
-- How long the backfill held back, by reason; all slices add to it.
UPDATE pgduet.migration
   SET controls = controls || jsonb_build_object('held_s', coalesce(controls -> 'held_s', '{}') || jsonb_build_object(
         %(why)s::text, coalesce((controls -> 'held_s' ->> %(why)s::text)::float8, 0) + %(seconds)s::float8))
 WHERE id = %(id)s

-- name: ranges
SELECT relation, part, block_from, block_to, cursor_block, rows_done, batches FROM pgduet.backfill_range
 WHERE migration_id = %(id)s ORDER BY relation, part

-- name: range
SELECT r.*, pg_relation_filenode(r.relation::regclass) AS filenode_now,
       (pg_relation_size(r.relation::regclass) / current_setting('block_size')::int)::bigint AS blocks_now
  FROM pgduet.backfill_range r
 WHERE migration_id = %(id)s AND relation = %(relation)s AND part = %(part)s

-- name: range_restart
-- The table was rewritten: a row may be on any page now, those of finished ranges included, so this range begins again as
-- the whole table.
UPDATE pgduet.backfill_range
   SET block_from = 0, cursor_block = 0, block_to = greatest(block_to, %(block_to)s), relfilenode = %(filenode)s
 WHERE migration_id = %(id)s AND relation = %(relation)s AND part = %(part)s

-- name: range_advance
-- Not over a table that was rewritten since: after the batch's own statement, its lock keeps that from happening. What was
-- written into the other file counts all the same.
UPDATE pgduet.backfill_range
   SET cursor_block = CASE WHEN relfilenode = pg_relation_filenode({relation}::regclass) THEN {block} ELSE cursor_block END,
       rows_done = rows_done + {rows}, batches = batches + 1, updated_at = clock_timestamp()
 WHERE migration_id = {id} AND relation = {relation} AND part = {part}
RETURNING cursor_block = {block} AS moved

-- name: pages
SELECT (pg_relation_size(%(relation)s::text::regclass) / current_setting('block_size')::int)::bigint AS pages,
       greatest(c.reltuples, 0)::float8 AS rows
  FROM pg_class c WHERE c.oid = %(relation)s::text::regclass

-- name: route_complete
-- There is one version now; routers go on asking for it.
UPDATE pgduet.route SET old_version = new_version WHERE migration = %(migration)s

-- name: route_retarget
-- A version is about to go: routes of other migrations that lead there lead to its neighbour from now on.
UPDATE pgduet.route
   SET old_version = CASE old_version WHEN %(leaving)s THEN %(instead)s ELSE old_version END,
       new_version = CASE new_version WHEN %(leaving)s THEN %(instead)s ELSE new_version END,
       epoch = epoch + 1, changed_at = clock_timestamp()
 WHERE migration <> %(migration)s AND %(leaving)s IN (old_version, new_version)
RETURNING migration

-- name: lock
SELECT * FROM pgduet.migration WHERE id = %(id)s FOR UPDATE

-- name: unrestore
UPDATE pgduet_archive.value SET restored_at = NULL
 WHERE migration = %(migration)s AND side = 'new' AND restored_at >= %(since)s

-- name: try_alone
SELECT pg_try_advisory_lock(1885824098, %(id)s::int) AS alone

-- name: compares_alone
SELECT pg_try_advisory_lock(1885824101, %(id)s::int) AS alone

-- name: end_holder
SELECT pg_terminate_backend(pid) FROM pg_locks
 WHERE locktype = 'advisory' AND classid = 1885824098 AND objid = %(id)s::int::oid AND granted
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())

-- name: try_comparing
-- One comparison of a migration at a time, whoever asks for it; the session holds it.
SELECT pg_try_advisory_lock(1885824100, %(id)s::int) AS alone

-- name: may_reconcile
-- Whether both versions live, and nothing is under way that a comparison would be in the way of.
SELECT ended_at IS NULL AND published_at IS NOT NULL AND NOT coalesce((controls ->> 'no_return')::boolean, false) AS overlaps,
       coalesce((controls ->> 'paused')::boolean, false) AS paused,
       controls ? 'going_back' AND compensations ?| %(undos)s::text[] AS makes_safe
  FROM pgduet.migration WHERE id = %(id)s

-- name: lock_chain
SELECT pg_advisory_xact_lock(1885824099, 1)
