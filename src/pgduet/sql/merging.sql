-- Several rows of a table, the source, become one row of another, the target (ADR 32). Filled by pgduet.operations.merge_rows, merge_rows_rows and merge_rows_writes.
-- `o` is a row of the source, `s` one of the target, `j` one of the journal, `a` what a group comes to.

-- name: source
-- What a merge asks of a table beyond its facts: an index over the key is one whose first columns are the key's, in their order.
SELECT c.relrowsecurity AS row_security,
       EXISTS (SELECT FROM pg_publication_rel r WHERE r.prrelid = c.oid) OR EXISTS (SELECT FROM pg_publication WHERE puballtables)
         OR EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnnspid = c.relnamespace) AS published,
       EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
                WHERE i.indrelid = c.oid AND i.indisvalid AND m.amname = 'btree' AND i.indpred IS NULL
                  AND %(key)s::text[] = ARRAY(SELECT a.attname FROM unnest(i.indkey::smallint[]) WITH ORDINALITY k(attnum, place)
                        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                       WHERE k.place <= least(cardinality(%(key)s::text[]), i.indnkeyatts) ORDER BY k.place)::text[]) AS indexed,
       ARRAY(SELECT r.rulename::text FROM pg_rewrite r WHERE r.ev_class = c.oid ORDER BY 1) AS ruled
  FROM pg_class c WHERE c.oid = %(oid)s::regclass

-- name: taken
-- Which of some names are taken in the schema by what does not go with the source: it, its indexes and its sequences make room.
SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = ANY (%(names)s) AND c.oid <> %(source)s::regclass
   AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = c.oid AND i.indrelid = %(source)s::regclass)
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refobjid = %(source)s::regclass
                      AND d.deptype IN ('a', 'i')) ORDER BY c.relname

-- name: measured_type
SELECT pg_typeof({measure}({value}))::text AS type FROM (SELECT {nothing}) AS _pgduet_none(v)

-- name: create_target
CREATE TABLE {target} ({columns}, CONSTRAINT {name} PRIMARY KEY ({key}))

-- name: create_journal
-- Short-lived rows: vacuumed by their number, not by a share of what is left.
CREATE TABLE {journal} ({columns}) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)

-- name: index_journal
CREATE INDEX ON {journal} ({key})

-- name: index_source
CREATE INDEX CONCURRENTLY {name} ON {relation} ({key})

-- name: drop_index
DROP INDEX CONCURRENTLY IF EXISTS {name}

-- name: drop_locked_index
-- Its table is locked already.
DROP INDEX IF EXISTS {name}

-- name: drop_table
DROP TABLE IF EXISTS {relation}

-- name: drop_function
DROP FUNCTION IF EXISTS {function}

-- name: drop_view
DROP VIEW IF EXISTS {view}

-- name: trigger
CREATE OR REPLACE TRIGGER {trigger} {when} ON {relation} FOR EACH {each} EXECUTE FUNCTION {function}()

-- name: function
CREATE OR REPLACE FUNCTION {function}({arguments}) RETURNS {returns} LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS {body}

-- name: note
-- All that a client's write costs: which groups have changed is written down, and nobody is waited for.
BEGIN
  IF TG_OP = 'UPDATE' AND NOT {changed} THEN
    RETURN NULL;
  END IF;
{noted}
END

-- name: truncate
-- The source is locked by now. Whoever locks both locks the source first: readers of the view, batches, and we. Who holds the target alone,
-- as a vacuum does, is not waited for: then every group of it is noted, and read from the source. That takes a snapshot that shows them all.
DECLARE
  by_old_snapshot boolean := current_setting('transaction_isolation') IN ('repeatable read', 'serializable');
BEGIN
  IF NOT by_old_snapshot THEN
    LOCK TABLE {target} IN ACCESS EXCLUSIVE MODE NOWAIT;
  END IF;
  TRUNCATE {target};
  RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
  IF by_old_snapshot THEN
    RAISE;
  END IF;
  INSERT INTO {journal} SELECT {s_key} FROM {target} AS s;
  RETURN NULL;
END

-- name: reading
-- What was noted is read from the source, all else from the target: one statement, one snapshot. The source is named before the target, or
-- TRUNCATE of the source would deadlock with readers.
SELECT {j_key}, {a_columns} FROM (SELECT DISTINCT {j_names} FROM {journal} AS j) AS j
 CROSS JOIN LATERAL (SELECT {merged} FROM {relation} AS o WHERE {o_is_j} HAVING count(*) > 0) AS a
 UNION ALL
SELECT {s_columns} FROM {target} AS s WHERE NOT EXISTS (SELECT FROM {journal} AS j WHERE {s_is_j})

-- name: view
-- With its owner's rights: clients need none on the journal, nor on a source that the new version does without.
CREATE OR REPLACE VIEW {view} AS {reading}

-- name: grant_reading
GRANT SELECT ON {relation} TO {role}

-- name: read_only
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', SCHEMA = {schema}, TABLE = {table}, MESSAGE = {message}, HINT = {hint};
END

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {relation}

-- name: drain
-- Locks no row that a client could want, and waits for nobody. The source is locked before we are alone: who waits for it keeps nobody out.
-- Two drains, or a drain and a batch of the filling, would write what they read before the other took its notes: hence one at a time.
#variable_conflict use_column
DECLARE
  taken {journal}[];
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'groups are read at READ COMMITTED only: by a snapshot newer than the lock';
  END IF;
  LOCK TABLE {relation} IN ACCESS SHARE MODE;
  IF NOT pg_try_advisory_xact_lock({alone}) THEN
    taken_notes := -1;
    RETURN;
  END IF;
  WITH gone AS (DELETE FROM {journal} AS j WHERE j.ctid = ANY (ARRAY(SELECT ctid FROM {journal} WHERE ctid >= _pgduet_at LIMIT _pgduet_most))
                RETURNING j.ctid AS _pgduet_place, {j_key})
  SELECT array_agg(DISTINCT ROW({g_key})::{journal}), count(*), coalesce(max(_pgduet_place), '(0,0)') INTO taken, taken_notes, _pgduet_at FROM gone AS g;
  -- In a statement of its own: its snapshot has all that was noted in what was taken. What is newer has a note that is still there.
  INSERT INTO {target} AS s ({columns}) SELECT {j_key}, {a_columns} FROM unnest(taken) AS j
   CROSS JOIN LATERAL (SELECT {merged} FROM {relation} AS o WHERE {o_is_j} HAVING count(*) > 0) AS a
   ON CONFLICT ({key}) DO UPDATE SET {assign} WHERE {differs};
  DELETE FROM {target} AS s USING unnest(taken) AS j WHERE {s_is_j} AND NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_j});
END

-- name: call_drain
SELECT _pgduet_at::text AS place, taken_notes FROM {function}({most}, {place}::tid)

-- name: tidy
-- What was taken stands in the journal's index until it is vacuumed, and readers step over it. The end of the table is left: to cut it off
-- takes a lock that readers would wait for.
VACUUM (INDEX_CLEANUP on, TRUNCATE off) {journal}

-- name: fill
-- The groups from a key on, as many as have about so many rows, and at least one. Two sessions may do the same: the first one counts.
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'groups are read at READ COMMITTED only: by a snapshot newer than the lock';
  END IF;
  LOCK TABLE {relation} IN ACCESS SHARE MODE;
  PERFORM pg_advisory_xact_lock_shared({alone});
  IF _pgduet_first IS NULL THEN
    SELECT {o_key} INTO _pgduet_first FROM {relation} AS o ORDER BY {o_key} LIMIT 1;
  END IF;
  SELECT {o_key} INTO _pgduet_next FROM {relation} AS o WHERE ({o_key}) >= ({first_key}) ORDER BY {o_key} OFFSET _pgduet_most LIMIT 1;
  IF _pgduet_next = _pgduet_first THEN
    SELECT {o_key} INTO _pgduet_next FROM {relation} AS o WHERE ({o_key}) > ({first_key}) ORDER BY {o_key} LIMIT 1;
  END IF;
  -- In a statement of its own, after the lock: what was drained before must be in what we read.
  IF _pgduet_next IS NULL THEN
    INSERT INTO {target} ({columns}) SELECT {o_key}, {merged} FROM {relation} AS o WHERE ({o_key}) >= ({first_key})
     GROUP BY {o_key} ON CONFLICT DO NOTHING;
  ELSE
    INSERT INTO {target} ({columns}) SELECT {o_key}, {merged} FROM {relation} AS o WHERE ({o_key}) >= ({first_key}) AND ({o_key}) < ({next_key})
     GROUP BY {o_key} ON CONFLICT DO NOTHING;
  END IF;
  GET DIAGNOSTICS filled_rows = ROW_COUNT;
END

-- name: call_fill
-- Where no key is left it is a row of nothing, not nothing.
SELECT CASE WHEN _pgduet_next IS NOT NULL THEN _pgduet_next::text END AS next, filled_rows FROM {function}({most}, {first}::{journal})

-- name: steps
-- How many rows the source has, about, and the step that finds no more keys.
SELECT greatest(reltuples, 0)::bigint + 1 AS steps FROM pg_class WHERE oid = %(relation)s::text::regclass

-- name: cursor_insert
INSERT INTO pgduet.key_cursor (migration_id, relation, part) VALUES (%(id)s, %(relation)s, %(part)s) ON CONFLICT DO NOTHING

-- name: cursor
SELECT r.*, k.next_key FROM pgduet.backfill_range r JOIN pgduet.key_cursor k USING (migration_id, relation, part)
 WHERE r.migration_id = %(id)s AND r.relation = %(relation)s AND r.part = %(part)s

-- name: advance
-- From where the batch began, and from nowhere else: whoever comes second with the same groups has found them filled.
WITH moved AS (
  UPDATE pgduet.key_cursor SET next_key = %(next)s
   WHERE migration_id = %(id)s AND relation = %(relation)s AND part = %(part)s AND next_key IS NOT DISTINCT FROM %(from)s::text
  RETURNING migration_id, relation, part)
UPDATE pgduet.backfill_range r
   SET cursor_block = %(block)s, rows_done = r.rows_done + %(rows)s, batches = r.batches + 1, updated_at = clock_timestamp()
  FROM moved m WHERE (r.migration_id, r.relation, r.part) = (m.migration_id, m.relation, m.part)

-- name: journal_there
SELECT to_regclass(%(journal)s) IS NOT NULL AS there

-- name: count_notes
SELECT count(*) AS notes FROM {journal}

-- name: parity
-- One statement, one snapshot: groups that only one side has, or whose merged row is not what they come to.
SELECT count(*) AS rows, count(*) FILTER (WHERE {differs}) AS mismatches
  FROM (SELECT {o_key_named}, {merged} FROM {relation} AS o GROUP BY {o_key}) AS o FULL JOIN ({reading}) AS s ON {same}

-- name: probe_write
-- A row that is free goes, for a moment that nobody sees.
DELETE FROM {relation} AS o WHERE o.ctid = (SELECT ctid FROM {relation} LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING {o_key_named}

-- name: probe_look
SELECT EXISTS (SELECT FROM {journal} AS j WHERE ({j_key}) = ({values}) AND j.xmin = pg_current_xact_id()::xid) AS good

-- name: some_keys
-- Groups that have a row on a page; keys as texts, as literals are.
SELECT DISTINCT {o_key_texts} FROM {relation} AS o WHERE o.ctid >= {first}::tid AND o.ctid < {last}::tid LIMIT {limit}

-- name: read_old
SELECT {merged} FROM {relation} AS o WHERE ({o_key}) = ({values}) HAVING count(*) > 0

-- name: read_new
SELECT {s_measures} FROM ({reading}) AS s WHERE ({s_key}) = ({values})

-- name: prepare
PREPARE {name} AS {query}

-- name: execute
EXECUTE {name} ({values})

-- name: deallocate
DEALLOCATE {name}

-- name: compare_one
-- One statement, one snapshot: what the rows come to against what a new client reads; no row where there is no such group.
SELECT count(*) > 0 AS there, coalesce(bool_or(differs), false) AS differs FROM (
  SELECT count(*) <> 2 AS differs FROM (SELECT * FROM ({old}) AS o UNION ALL SELECT * FROM ({new}) AS s) AS both_sides
   GROUP BY both_sides) AS compared

-- name: compared
-- The same of a range of keys, with what is said of groups that differ.
SELECT count(*) AS pairs, {found}
  FROM (SELECT {groups} FROM {relation} AS o WHERE {o_range} GROUP BY {o_key}) AS o
  FULL JOIN (SELECT * FROM ({reading}) AS s WHERE {s_range}) AS s ON {same}

-- name: named
coalesce(jsonb_agg(jsonb_build_array(CASE WHEN {o_lacks} THEN 'extra' WHEN {s_lacks} THEN 'missing' ELSE 'mismatch' END, {key},
                                     jsonb_build_object('old', {old}, 'new', {new})::text)) FILTER (WHERE {differs}), '[]') AS found

-- name: counted
count(*) FILTER (WHERE {differs}) AS bad, count(*) FILTER (WHERE {s_lacks}) AS missing, count(*) FILTER (WHERE {o_lacks}) AS extra

-- name: note_drift
-- A repair is a note: it makes readers ask the source at once, and the next drain write the target.
INSERT INTO {journal} SELECT {key_of} FROM
 (SELECT {coalesced} FROM (SELECT {o_key_named}, {merged} FROM {relation} AS o GROUP BY {o_key}) AS o
   FULL JOIN ({reading}) AS s ON {same} WHERE {differs}) AS j

-- name: settled
DO {body}

-- name: settled_body
BEGIN
  IF EXISTS (SELECT FROM {journal}) THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = {message};
  END IF;
END

-- name: final_view
CREATE OR REPLACE VIEW {view} WITH (security_invoker = true) AS SELECT {columns} FROM {target}

-- name: grant
GRANT {privileges} ON {relation} TO {role}

-- name: owner
ALTER TABLE {relation} OWNER TO {role}

-- name: rename
ALTER TABLE {relation} RENAME TO {name}

-- name: rename_constraint
ALTER TABLE {relation} RENAME CONSTRAINT {old} TO {name}

-- name: create_locks
-- A row for each group that a new client has written: what keeps two of them apart, at every isolation level.
CREATE TABLE {locks} ({columns}, _pgduet_turn bigint NOT NULL DEFAULT 0, PRIMARY KEY ({key})) WITH (fillfactor = 50)

-- name: row_function
CREATE OR REPLACE FUNCTION {function}({arguments}) RETURNS SETOF {target} LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED ROWS 1
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}

-- name: lock_group
-- What a new client's UPDATE reads: the group as it is once nobody else of the new version writes it, whatever the statement's own snapshot
-- shows. At REPEATABLE READ and above the lock itself refuses (40001), where somebody has had it since.
#variable_conflict use_column
BEGIN
  INSERT INTO {locks} AS l ({key}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET _pgduet_turn = l._pgduet_turn + 1;
  RETURN QUERY SELECT {o_key}, {merged} FROM {relation} AS o WHERE ({o_key}) = ({values}) GROUP BY {o_key};
END

-- name: writing
-- A view cannot know by itself that it is read to be written: the statement says so, and takes it back.
BEGIN
  PERFORM set_config({flag}, CASE WHEN TG_WHEN = 'BEFORE' THEN 'on' ELSE '' END, true);
  RETURN NULL;
END

-- name: reading_and_writing
-- For who reads as ever; for who writes from the groups themselves, each locked among new clients before it is read.
SELECT * FROM ({reading}) AS r WHERE current_setting({flag}, true) IS DISTINCT FROM 'on'
 UNION ALL
SELECT {k_key}, {a_columns} FROM (SELECT DISTINCT {o_key_named} FROM {relation} AS o) AS k CROSS JOIN LATERAL {function}({k_key}) AS a
 WHERE current_setting({flag}, true) = 'on'

-- name: write
-- A write is one more row of its group, or it is refused. So it excludes no old client and overwrites nothing of what one of them does at the
-- same time: sums, counts, minima and maxima of both are what comes of both.
#variable_conflict use_column
DECLARE
  _pgduet_before {target};
  _pgduet_adds {target};
  _pgduet_made {relation};
BEGIN
  IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND {key_changed} THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', SCHEMA = {schema}, TABLE = {table}, MESSAGE = {read_only}, HINT = {hint};
  END IF;
  _pgduet_adds := NEW;
  IF TG_OP = 'INSERT' THEN
    INSERT INTO {locks} AS l ({key}) VALUES ({new_key}) ON CONFLICT ({key}) DO UPDATE SET _pgduet_turn = l._pgduet_turn + 1;
    IF EXISTS (SELECT FROM {relation} AS o WHERE ({o_key}) = ({new_key})) THEN
      RAISE EXCEPTION USING ERRCODE = 'unique_violation', SCHEMA = {schema}, TABLE = {table}, CONSTRAINT = {constraint}, MESSAGE = {duplicate};
    END IF;
  ELSIF {changed} THEN
    _pgduet_before := OLD;
    {differences}
  ELSE
    RETURN NEW;
  END IF;
  INSERT INTO {relation} ({columns}) VALUES ({values}) RETURNING * INTO _pgduet_made;
  IF NOT FOUND OR {apart} THEN
    RAISE EXCEPTION USING ERRCODE = 'data_exception', SCHEMA = {schema}, TABLE = {table}, MESSAGE = {no_equivalent}, HINT = {hint};
  END IF;
  RETURN NEW;
END
