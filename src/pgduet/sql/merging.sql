-- Several rows of a table, the source, become one row of another, the target (ADR 32). Filled by pgduet.operations.merge_rows, merge_rows_sync.
-- `o` is a row of the source, `s` one of the target, `j` one of the journal, `a` what a group comes to.

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
  IF TG_OP <> 'INSERT' THEN
    INSERT INTO {journal} VALUES ({old_key});
  END IF;
  IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND {key_changed} THEN
    INSERT INTO {journal} VALUES ({new_key});
  END IF;
  RETURN NULL;
END

-- name: truncate
-- The source is locked by now. Whoever locks both locks the source first: readers of the view, batches, and we.
BEGIN
  TRUNCATE {target};
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

-- name: parity
-- One statement, one snapshot: groups that only one side has, or whose merged row is not what they come to.
SELECT count(*) AS rows, count(*) FILTER (WHERE {differs}) AS mismatches
  FROM (SELECT {o_key_named}, {merged} FROM {relation} AS o GROUP BY {o_key}) AS o FULL JOIN ({reading}) AS s ON {same}

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

-- name: set_schema
ALTER TABLE {relation} SET SCHEMA {schema}

-- name: rename
ALTER TABLE {relation} RENAME TO {name}

-- name: rename_constraint
ALTER TABLE {relation} RENAME CONSTRAINT {old} TO {name}
