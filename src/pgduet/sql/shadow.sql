-- A shadow: the rows of a table, the anchor, in another shape (ADR 28). Filled by pgduet.operations.shadow, shadow_sync, shadow_rows.
-- In bodies: `r` and `d` are rows of the anchor, `n` is one of the shadow; `o` and `s` are aliases of the two tables.

-- name: create
CREATE TABLE {shadow} ({parts}){partitioned}

-- name: create_partition
CREATE TABLE {partition} PARTITION OF {shadow} {bound}

-- name: create_journal
CREATE TABLE {journal} ({columns})

-- name: index_journal
CREATE INDEX CONCURRENTLY {name} ON {journal} ({columns})

-- name: drop_table
DROP TABLE IF EXISTS {relation}

-- name: lock_shared
LOCK TABLE {relations} IN ACCESS SHARE MODE

-- name: copy
-- Takes no row lock and knows no conflict: what changes meanwhile stands in the journal.
INSERT INTO {shadow} ({columns}) SELECT {values} FROM {relation} AS o WHERE {pages}{condition}

-- name: clear_journalled
-- A row that was moved while it was copied may be there twice, one that was deleted may still be there: the journal has all of them.
DELETE FROM {shadow} AS s USING (SELECT DISTINCT {journal_key} FROM {journal} AS j) AS j WHERE {s_is_j}

-- name: add_key
ALTER TABLE {shadow} ADD CONSTRAINT {name} PRIMARY KEY ({columns})

-- name: add_index
CREATE INDEX {name} ON {shadow} ({columns})

-- name: add_unique_alone
CREATE UNIQUE INDEX {name} ON {shadow} ({columns})

-- name: drain_function
CREATE OR REPLACE FUNCTION {function}(most integer, INOUT place tid, OUT taken_keys bigint, OUT left_keys bigint) RETURNS record LANGUAGE plpgsql VOLATILE
  SET search_path = pg_catalog, pg_temp SET row_security = on AS {body}

-- name: drain
-- What cannot be mapped is left out, and noted as by the trigger.
-- `place` is where to go on: what was deleted stays in the journal's pages until they are vacuumed, and need not be passed again and again.
-- Each statement has a snapshot of its own. Rows that clients hold are left for the next time: we never wait for one.
DECLARE
  taken {journal}[];
  free {journal}[];
  carried bigint;
BEGIN
  WITH gone AS (DELETE FROM {journal} AS j WHERE j.ctid = ANY (ARRAY(SELECT ctid FROM {journal} WHERE ctid >= place LIMIT most))
                RETURNING j.ctid AS _pgduet_place, {j_key})
  SELECT array_agg(DISTINCT ROW({g_key})::{journal}), coalesce(max(_pgduet_place), '(0,0)') INTO taken, place FROM gone AS g;
  taken_keys := coalesce(cardinality(taken), 0);
  PERFORM set_config('pgduet.engine', {label}, true);
  WITH locked AS (SELECT {o_key} FROM {relation} AS o JOIN unnest(taken) AS j ON {o_is_j} FOR NO KEY UPDATE OF o SKIP LOCKED)
  SELECT array_agg(ROW({g_key})::{journal}) INTO free FROM locked AS g;
  -- Ours until the transaction ends: their sync triggers have been before us, or come after us.
  DELETE FROM {shadow} AS s USING unnest(free) AS j WHERE {s_is_j};
  INSERT INTO {shadow} ({columns}) SELECT {values} FROM {relation} AS o JOIN unnest(free) AS j ON {o_is_j}{condition};
  GET DIAGNOSTICS carried = ROW_COUNT;
{noted}
  -- What the anchor has no longer. One who writes that key anew at this moment holds the row or waits for us.
  WITH stale AS MATERIALIZED (SELECT {s_key} FROM {shadow} AS s JOIN unnest(taken) AS j ON {s_is_j}
         WHERE NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_j}) FOR UPDATE OF s SKIP LOCKED)
  DELETE FROM {shadow} AS s USING stale WHERE {s_is_stale};
  INSERT INTO {journal} SELECT {j_key} FROM (SELECT {j_key} FROM unnest(taken) AS j EXCEPT SELECT {j_key} FROM unnest(free) AS j) AS j
   WHERE (EXISTS (SELECT FROM {relation} AS o WHERE {o_is_j}) OR EXISTS (SELECT FROM {shadow} AS s WHERE {s_is_j}));
  GET DIAGNOSTICS left_keys = ROW_COUNT;
  PERFORM set_config('pgduet.engine', '', true);
END

-- name: note_unmapped
  IF carried < cardinality(free) THEN
    PERFORM pgduet.note_drift({migration_id}, {label}, {drift_key}, 'unmapped', {fits}(o))
       FROM {relation} AS o JOIN unnest(free) AS j ON {o_is_j} WHERE {fits}(o) IS NOT NULL{exists};
  END IF;

-- name: journalled
t.ctid = ANY (ARRAY(SELECT o.ctid FROM (SELECT * FROM {journal} LIMIT 100) AS j JOIN {relation} AS o ON {o_is_j}))

-- name: call_drain
SELECT place::text AS place, taken_keys, left_keys FROM {function}({most}, {place}::tid)

-- name: trigger
CREATE OR REPLACE TRIGGER {trigger} {when} ON {relation} FOR EACH {each}{condition} EXECUTE FUNCTION {function}()

-- name: when_postponed
 WHEN (current_setting('pgduet.postponed', true) = {mark})

-- name: function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on AS {body}

-- name: kept_types
-- Nobody calls it. PostgreSQL changes the type of no column that such a function reads, whatever a row holds, and drops none.
CREATE OR REPLACE FUNCTION {function}() RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT {columns} FROM {relation} AS o; END

-- name: drop_function
DROP FUNCTION IF EXISTS {function}

-- name: note
-- While rows are copied: which rows have changed is all that is written down.
BEGIN
{noted}
END

-- name: note_always
-- A snapshot taken before a row was copied does not see that row: such a client's write is written down, and carried over later.
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
{noted}
  END IF;

-- name: behind
-- The note of a key that has been carried over since is still to be seen in a snapshot from before, which shows the shadow's row as it was.
-- Such a client's write is written down, too. Where a snapshot shows no note, both rows are in step in it, unless a row that was lacking
-- was put right since.
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    IF EXISTS (SELECT FROM {journal} AS j WHERE {j_is_old} OR {j_is_new}) THEN
{noted}
    END IF;
{lacking}
  END IF;

-- name: lacking
    -- No row in the snapshot, but one since: DELETE would leave it there, and INSERT be told of a duplicate. This is told of the conflict (40001).
    IF TG_OP <> 'INSERT'{exists_old} AND NOT EXISTS (SELECT FROM {shadow} AS s WHERE {s_is_old}) THEN
      PERFORM set_config('pgduet.row', {old_token}, true);
{give_old}
      PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
    END IF;
    -- A row in the snapshot, but none since, or the anchor had not let its key be inserted: UPDATE would meet what is gone.
    IF TG_OP = 'INSERT'{exists_new} AND EXISTS (SELECT FROM {shadow} AS s WHERE {s_is_new}) THEN
      PERFORM set_config('pgduet.row', {new_token}, true);
{give_new}
      PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
      IF given THEN
        RETURN NULL;
      END IF;
    END IF;

-- name: give
      INSERT INTO {shadow} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING;
      given := FOUND;

-- name: give_safe
      -- What cannot be mapped has no row.
      BEGIN
{give}
      EXCEPTION WHEN serialization_failure THEN
        RAISE;
      WHEN OTHERS THEN
        given := false;
      END;

-- name: forward
-- Old to new, after the anchor was written. The row is read again: what a trigger of the user's made of it since is newer than NEW.
DECLARE
  guard text := current_setting('pgduet.row', true);
  r {relation}%ROWTYPE;
  why text;
  given boolean;
BEGIN
{postpone}
  IF guard IN ({old_token}, {new_token}){or_moved} THEN
{within}
    RETURN NULL;
  END IF;
{in_order}
{late}
  IF TG_OP = 'DELETE' THEN
    PERFORM set_config('pgduet.row', {old_token}, true);
    DELETE FROM {shadow} AS s WHERE {s_is_old} AND NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_old});
  ELSE
    PERFORM set_config('pgduet.row', {new_token}, true);
    IF TG_OP = 'UPDATE' AND {key_changed} THEN
{rekeyed}
    END IF;
    SELECT * INTO r FROM {relation} AS o WHERE {o_is_new};
    IF FOUND THEN
{carried}
    END IF;
  END IF;
  PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
  RETURN NULL;
END

-- name: rekeyed
-- In a statement that moves keys along (deferrable keys allow it) the next key may be there still, and the old one have its next row.
      UPDATE {shadow} AS s SET {rekey} WHERE {s_is_old} AND NOT EXISTS (SELECT FROM {shadow} AS s WHERE {s_is_new});
      IF NOT FOUND THEN
        DELETE FROM {shadow} AS s WHERE {s_is_old} AND NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_old});
      END IF;
      SELECT * INTO r FROM {relation} AS o WHERE {o_is_old};
      IF FOUND THEN
        PERFORM set_config('pgduet.row', {old_token}, true);
{carried}
        PERFORM set_config('pgduet.row', {new_token}, true);
      END IF;

-- name: carried
{judge}
      IF why IS NOT NULL{unless_exists} THEN
        DELETE FROM {shadow} AS s WHERE {s_is_r};
      ELSE
{release}        UPDATE {shadow} AS s SET {assign} WHERE {s_is_r};
        IF NOT FOUND{and_fits} THEN
          INSERT INTO {shadow} ({columns}) VALUES ({values});
        END IF;
      END IF;

-- name: release
        PERFORM {function}(r, '{{}}');

-- name: release_function
-- Where a trigger of the user's writes a unique value that its own statement has freed just before, the row that held it comes later
-- here: it is read again first. In a ring of such rows one has to go; its own trigger, which is still to come, brings it back.
CREATE OR REPLACE FUNCTION {function}(r {relation}, path text[]) RETURNS void LANGUAGE plpgsql VOLATILE
  SET search_path = pg_catalog, pg_temp SET row_security = on AS {body}

-- name: release_body
DECLARE
  guard text := current_setting('pgduet.row', true);
  held {shadow}%ROWTYPE;
  now {relation}%ROWTYPE;
BEGIN
{keys}
  PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
END

-- name: release_key
  FOR held IN SELECT * FROM {shadow} AS s WHERE {s_has_it} AND NOT ({s_is_r}) LOOP
    PERFORM set_config('pgduet.row', {held_token}, true);
    SELECT * INTO now FROM {relation} AS o WHERE {o_is_held};
    IF NOT FOUND OR {held_token} = ANY (path) THEN
      DELETE FROM {shadow} AS s WHERE {s_is_held};
    ELSIF {changed} THEN
      PERFORM {function}(now, array_append(path, {r_token}));
      UPDATE {shadow} AS s SET {assign} WHERE {s_is_held};
    END IF;
  END LOOP;

-- name: judge
-- An old client must not see an error of ours: what cannot be mapped has no row in the new version, and is noted.
      why := NULL;
      IF {changed} THEN
        why := {fits}(r);
        IF why IS NOT NULL THEN
          PERFORM pgduet.note_drift({migration_id}, {label}, {drift_key}, 'unmapped', why);
        END IF;
      END IF;

-- name: judge_enforced
-- The new version's contract binds everyone: what it cannot hold is refused before commit.
      why := NULL;
      IF {changed} THEN
        why := {fits}(r);
        IF why IS NOT NULL THEN
          RAISE EXCEPTION USING ERRCODE = 'data_exception', MESSAGE = {message} || why, HINT = {hint}, SCHEMA = {schema}, TABLE = {table};
        END IF;
      END IF;

-- name: fits
-- Tells why the shadow cannot hold a row of the anchor, or NULL where it can.
CREATE OR REPLACE FUNCTION {function}(o {relation}) RETURNS text LANGUAGE plpgsql STABLE COST 10000 SET search_path = pg_catalog, pg_temp SET row_security = on AS {body}

-- name: fits_body
DECLARE
  n {shadow}%ROWTYPE;
BEGIN
{assign}
  RETURN CASE WHEN {empty} THEN 'a column that must not be empty would be' END;
EXCEPTION WHEN OTHERS THEN
  RETURN SQLSTATE || ': ' || SQLERRM;
END

-- name: truncate
-- Nobody but us uses the shadow yet; whoever locks both locks the anchor first. While we hold it (its key is being built) no client
-- waits for that: what the shadow has too much is put into the journal later.
BEGIN
  BEGIN
    LOCK TABLE {shadow} IN ACCESS EXCLUSIVE MODE NOWAIT;
    TRUNCATE {shadow};
  EXCEPTION WHEN lock_not_available THEN
    INSERT INTO pgduet.emptied (relation) VALUES ({label});
  END;
  RETURN NULL;
END

-- name: emptied
SELECT id FROM pgduet.emptied WHERE relation = %(relation)s

-- name: owes
-- What was written down and not carried over: keys, or that a table was emptied.
SELECT EXISTS (SELECT FROM {journal}) OR EXISTS (SELECT FROM pgduet.emptied WHERE relation = {label}) AS owes

-- name: owes_nothing
DO {body}

-- name: owes_nothing_body
BEGIN
  IF ({owes}) THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'rows are to be carried over yet';
  END IF;
END

-- name: emptied_done
DELETE FROM pgduet.emptied WHERE id = ANY (%(ids)s)

-- name: journal_surplus
-- What the drain finds neither in the anchor nor held by a client it deletes.
INSERT INTO {journal} SELECT {keys} FROM {heap} AS s WHERE {pages} AND NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_s})

-- name: truncate_published
-- Row by row: TRUNCATE would lock the shadow, which a new client's statement locks before the anchor.
BEGIN
  IF current_setting('pgduet.engine', true) = {label} THEN  -- the shadow is being emptied, and the anchor with it
    RETURN NULL;
  END IF;
  PERFORM set_config('pgduet.engine', {label}, true);
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    -- DELETE does not see what has come since the snapshot, and TRUNCATE knows none. Where a client is at work on the shadow, the rest is
    -- taken away later.
    BEGIN
      LOCK TABLE {shadow} IN ACCESS EXCLUSIVE MODE NOWAIT;
      TRUNCATE {shadow};
    EXCEPTION WHEN lock_not_available THEN
      INSERT INTO pgduet.emptied (relation) VALUES ({label});
    END;
  END IF;
  DELETE FROM {shadow} AS s WHERE NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_s});
  PERFORM set_config('pgduet.engine', '', true);
  RETURN NULL;
END

-- name: reverse
-- New to old, before the shadow is written: whoever writes the shadow holds the anchor.
#variable_conflict use_column
DECLARE
  guard text := current_setting('pgduet.row', true);
  r {relation}%ROWTYPE;
  d {relation}%ROWTYPE;
  tries integer := 0;
  done boolean;
  _met record;
  _held text[];
  within text := current_setting('pgduet.within', true);
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF guard = {old_token} OR current_setting('pgduet.engine', true) = {label} THEN
      RETURN OLD;
    END IF;
{moved_away}
    PERFORM set_config('pgduet.row', {old_token}, true);
{delete}
    PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
{leaving}
    RETURN OLD;
  END IF;
{number}
  IF guard IN ({old_token}, {new_token}) OR current_setting('pgduet.engine', true) = {label} THEN
    RETURN NEW;
  END IF;
  IF TG_OP = 'UPDATE' THEN
{update}
  ELSE
{insert}
  END IF;
{refreshed}
  RETURN NEW;
END

-- name: postponed_trigger
BEGIN
  CREATE CONSTRAINT TRIGGER {trigger} AFTER {event} ON {relation} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (current_setting('pgduet.within', true) = {mark}) EXECUTE FUNCTION {function}('postponed');
EXCEPTION WHEN duplicate_object THEN
  NULL;
END

-- name: postpone
  IF TG_NARGS = 0 THEN
    -- A trigger that a new client's statement has fired writes this row: that statement may come to it yet. Not so another key, or the
    -- statement would meet the row under a key that was another one's.
    IF current_setting('pgduet.within', true) = {mark} AND (TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND NOT {key_changed}) THEN
      PERFORM set_config('pgduet.postponed', {mark}, true);
      RETURN NULL;
    END IF;
  ELSIF TG_OP = 'UPDATE' AND {key_changed} THEN
    RETURN NULL;
  END IF;

-- name: within
    -- The row itself, and its user's triggers are still to come.
    IF TG_OP <> 'INSERT' THEN
      PERFORM set_config('pgduet.within', {mark}, true);
    END IF;

-- name: in_order
  IF TG_NARGS = 0 AND TG_OP = 'UPDATE' AND current_setting('pgduet.postponed', true) = {mark} THEN
    PERFORM {settle}();
  END IF;

-- name: settle_function
CREATE OR REPLACE FUNCTION {function}() RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS {body}

-- name: settle_body
-- What was postponed reaches the shadow now, as by an old client's statement.
DECLARE
  guard text := current_setting('pgduet.row', true);
  within text := current_setting('pgduet.within', true);
BEGIN
  PERFORM set_config('pgduet.postponed', '', true), set_config('pgduet.row', '', true), set_config('pgduet.within', '', true);
  SET CONSTRAINTS {constraints} IMMEDIATE;
  SET CONSTRAINTS {constraints} DEFERRED;
  PERFORM set_config('pgduet.row', coalesce(guard, ''), true), set_config('pgduet.within', coalesce(within, ''), true);
END

-- name: at_end
-- Statements by which triggers write the shadow end here, too: none of them is the client's.
BEGIN
  IF current_setting('pgduet.row', true) = '' AND current_setting('pgduet.within', true) = '' THEN
    PERFORM {settle}();
  END IF;
  RETURN NULL;
END

-- name: leaving
    PERFORM set_config('pgduet.within', coalesce(within, ''), true);

-- name: settled
    IF current_setting('pgduet.postponed', true) = {mark} THEN
      PERFORM {settle}();
    END IF;

-- name: gone
      IF current_setting('pgduet.postponed', true) = {mark} THEN
{refused}
      END IF;

-- name: met
    IF current_setting('pgduet.postponed', true) = {mark} THEN
      IF {unfit} THEN
{refused}
      END IF;
{columns}
    END IF;

-- name: met_column
      IF {stale} THEN
        IF {collides} THEN
{refused}
        END IF;
        {old} := {value};
        {new} := {value};
      END IF;

-- name: met_twice
          RAISE EXCEPTION USING ERRCODE = 'triggered_data_change_violation', SCHEMA = {schema}, TABLE = {table}, MESSAGE = {message}, HINT = {hint};

-- name: number
  IF TG_OP = 'INSERT' AND {column} IS NULL THEN
    {column} := {value};
  END IF;

-- name: number_function
-- With its owner's rights: an identity asks nobody for a right on its sequence.
CREATE OR REPLACE FUNCTION {function}() RETURNS {type} LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}

-- name: number_body
BEGIN
  RETURN {value};
END

-- name: delete_row
    DELETE FROM {relation} AS o WHERE {o_is_old};
    IF EXISTS (SELECT FROM {relation} AS o WHERE {o_is_old}) THEN  -- a trigger of the user's kept it
      PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
{leaving}
      RETURN NULL;
    END IF;

-- name: delete_columns
    UPDATE {relation} AS o SET {clear} WHERE {o_is_old};

-- name: update
    SELECT * INTO d FROM {relation} AS o WHERE {o_is_old};
    IF NOT FOUND THEN
{gone}
      RETURN NULL;
    END IF;
{met}
    done := {keys_change};
{down}
    PERFORM set_config('pgduet.row', {old_token}, true);
{moving}
{write}
    done := FOUND;
    PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
{leaving}
{moved}
    IF NOT done THEN  -- a trigger of the user's refused it silently
      RETURN NULL;
    END IF;
{moves}

-- name: write
    UPDATE {relation} AS o SET {assign} WHERE {o_is_old};

-- name: write_keyless
    IF done THEN
      UPDATE {relation} AS o SET {assign} WHERE {o_is_old};
    ELSE
      UPDATE {relation} AS o SET {assign_keyless} WHERE {o_is_old};
    END IF;

-- name: moving
-- Where the key decides about the anchor's partition, its row goes by DELETE and INSERT: the one has the old key, the other the new
-- one. A row that refers to itself is written under its new key, too.
    PERFORM set_config('pgduet.row_to', {new_token}, true);

-- name: moved
    PERFORM set_config('pgduet.row_to', '', true);

-- name: down_of_changed
    IF {changed} THEN
{down}
    END IF;

-- name: insert_row
{arrived}
{settled}
{down}
    PERFORM set_config('pgduet.row', {new_token}, true);
    LOOP
{attempt}
{probes}
      tries := tries + 1;
      IF tries > 100 THEN
        -- By a key that the shadow does not have: PostgreSQL says which. Or a trigger of the user's refused it silently.
        INSERT INTO {relation} ({columns}){overriding} VALUES ({values});
        IF NOT FOUND THEN
          PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
          RETURN NULL;
        END IF;
{plainly}
        tries := 0;
        EXIT;
      END IF;
    END LOOP;
    PERFORM set_config('pgduet.row', coalesce(guard, ''), true);

-- name: attempt
      INSERT INTO {relation} ({columns}){overriding} VALUES ({values}) ON CONFLICT DO NOTHING;
      EXIT WHEN FOUND;

-- name: attempt_on_trial
      -- What the anchor has taken the shadow may refuse: then the anchor must not have it either.
      done := false;
      BEGIN
        INSERT INTO {relation} ({columns}){overriding} VALUES ({values}) ON CONFLICT DO NOTHING;
        IF FOUND THEN
{trial}
          done := true;
        END IF;
      EXCEPTION WHEN SQLSTATE 'PD409' THEN
        NULL;
      END;
      EXIT WHEN done;

-- name: trial
{refreshed}
          INSERT INTO {shadow} ({columns}) VALUES ({values}){or_nothing};
          IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'PD409';
          END IF;
          DELETE FROM {shadow} AS s WHERE {s_is_new};

-- name: probes
      -- Whatever is in the way, by whichever unique index: the anchor's rows are locked in one order. The shadow's own indexes say to
      -- the client what there is to say, who has those rows from here on.
      _held := '{{}}';
      FOR _met IN {in_the_way}{and_own} ORDER BY {order} LOOP
        CONTINUE WHEN {met_token} = ANY (_held);
{lock}
        IF FOUND THEN
          _held := array_append(_held, {met_token});
        END IF;
      END LOOP;
      SELECT bool_and({s_token} = ANY (_held)) INTO done FROM ({in_the_way}) AS s;
      IF done THEN
        PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
        RETURN NEW;
      END IF;
{alone}

-- name: alone
      -- What one snapshot has in the anchor alone is in nobody's way but ours.
      IF done IS NULL AND EXISTS (SELECT FROM {relation} AS o WHERE {o_has_it}) AND NOT EXISTS ({in_the_way}) THEN
        PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
        RAISE EXCEPTION USING ERRCODE = 'unique_violation', CONSTRAINT = {constraint}, SCHEMA = {schema}, TABLE = {table},
          MESSAGE = {message};
      END IF;

-- name: insert_columns
{settled}
{lock}
    SELECT * INTO d FROM {relation} AS o WHERE {o_is_new} FOR NO KEY UPDATE;
    IF NOT FOUND THEN
      RAISE EXCEPTION USING ERRCODE = 'foreign_key_violation', SCHEMA = {schema}, TABLE = {table}, MESSAGE = {message};
    END IF;
    IF EXISTS (SELECT FROM {shadow} AS s WHERE {s_is_new}) THEN
      RETURN NEW;
    END IF;
{down}
    PERFORM set_config('pgduet.row', {new_token}, true);
    UPDATE {relation} AS o SET {assign} WHERE {o_is_new};
    PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
{leaving}

-- name: insert_unique_columns
-- As above; and what moves here is unique in the anchor, or will be: whoever has a value of it is in the way, too.
{settled}
    PERFORM set_config('pgduet.row', {new_token}, true);
    LOOP
{probes}
      IF NOT {new_token} = ANY (_held) THEN
        RAISE EXCEPTION USING ERRCODE = 'foreign_key_violation', SCHEMA = {schema}, TABLE = {table}, MESSAGE = {message};
      END IF;
      SELECT * INTO d FROM {relation} AS o WHERE {o_is_new};
{down}
      tries := tries + 1;
      IF tries > 100 THEN
        UPDATE {relation} AS o SET {assign} WHERE {o_is_new};
{plainly}
        EXIT;
      END IF;
      done := false;
      BEGIN
        UPDATE {relation} AS o SET {assign} WHERE {o_is_new};
{trial}
        done := true;
      EXCEPTION WHEN unique_violation OR SQLSTATE 'PD409' THEN
        NULL;
      END;
      EXIT WHEN done;
    END LOOP;
    PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
{leaving}

-- name: down
    BEGIN
{assign}
    EXCEPTION WHEN OTHERS THEN
      RAISE EXCEPTION USING ERRCODE = 'data_exception', MESSAGE = {message}, DETAIL = SQLERRM, HINT = {hint},
        SCHEMA = {schema}, TABLE = {table};
    END;

-- name: lossy
    IF {lossy} THEN
      RAISE EXCEPTION USING ERRCODE = 'data_exception', MESSAGE = {message}, HINT = {hint}, SCHEMA = {schema}, TABLE = {table};
    END IF;

-- name: key_stays
    IF {key_changed} THEN
      RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', SCHEMA = {schema}, TABLE = {table},
        MESSAGE = {message}, HINT = 'Delete the row, and insert it under the other key.';
    END IF;

-- name: numbers_itself
    IF {changed} THEN
      RAISE EXCEPTION USING ERRCODE = 'generated_always', SCHEMA = {schema}, TABLE = {table}, MESSAGE = {message}, DETAIL = {detail};
    END IF;

-- name: refreshed
  SELECT * INTO r FROM {relation} AS o WHERE {o_is_new};
{refresh}

-- name: refresh
  IF {changed} THEN
    {column} := {value};
  END IF;

-- name: moves
    IF {partition_changed} THEN
      PERFORM set_config('pgduet.moving', {new_token}, true);
    END IF;

-- name: moved_away
    -- An UPDATE sends the row to another partition: what leaves is not what the anchor holds.
    IF current_setting('pgduet.moving', true) = {old_token} THEN
      SELECT * INTO r FROM {relation} AS o WHERE {o_is_old};
      IF FOUND AND ({differs}) THEN
        RETURN OLD;
      END IF;
    END IF;

-- name: arrived
    IF current_setting('pgduet.moving', true) = {new_token} THEN
      SELECT * INTO r FROM {relation} AS o WHERE {o_is_new};
      IF FOUND AND NOT ({differs}) AND NOT EXISTS (SELECT FROM {shadow} AS s WHERE {s_is_new}) THEN
        PERFORM set_config('pgduet.moving', '', true);
        RETURN NEW;
      END IF;
    END IF;

-- name: lock_function
-- Called by the policies, before PostgreSQL locks the shadow's row: it locks the anchor's.
CREATE OR REPLACE FUNCTION {function}({arguments}) RETURNS boolean LANGUAGE plpgsql VOLATILE COST 10000 SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp SET row_security = on AS {body}

-- name: lock_body
-- The row may have got another key since the statement began. Then the shadow's row has that, too, and is about to be locked as it is now: the
-- anchor's row comes first here, too. Where somebody has written or locked the shadow's row since, its old key may be another one's by now.
-- PostgreSQL asks once more when it has locked the row as it is then: that is the newest one, and of a partition it does not say which.
#variable_conflict use_variable
DECLARE
  _newer boolean := {known} AND _since;
  _tried boolean := false;
  _next tid;
BEGIN
  IF current_setting('pgduet.row', true) = {token} OR current_setting('pgduet.engine', true) = {label} THEN
    RETURN true;
  END IF;
  LOOP
    IF _newer THEN
      _next := currtid2({heap}, _place);
      EXIT WHEN _tried AND _next = _place;
      IF _next <> _place THEN
        _place := _next;
        SELECT {s_key} INTO {key} FROM {shadow} AS s WHERE {s_is_there};
      END IF;
    END IF;
{lock}
    EXIT WHEN FOUND OR NOT {known};
    _newer := true;
    _tried := true;
  END LOOP;
  RETURN true;
END

-- name: lock_row
  PERFORM FROM {relation} AS o WHERE {same} FOR {strength};

-- name: lock_as_wanted
  IF current_setting('pgduet.rekeys', true) = {mark} THEN
{strong}
  ELSE
{weak}
  END IF;

-- name: rekeys
-- Fires before the first row of a statement that sets a column of the key is read, and when it is at its end.
BEGIN
  PERFORM set_config('pgduet.rekeys', CASE TG_WHEN WHEN 'BEFORE' THEN {mark} ELSE '' END, true);
  RETURN NULL;
END

-- name: when_a_client
WHEN (coalesce(current_setting('pgduet.row', true), '') = '')

-- name: lock_moving_row
  -- An old client may just send the row to another partition, for which PostgreSQL raises 40001 when it is waited for. To whoever reads what is
  -- committed it is not here any more. Who need not wait needs no subtransaction.
  PERFORM FROM {relation} AS o WHERE {same} FOR {strength} SKIP LOCKED;
  IF NOT FOUND THEN
    BEGIN
      PERFORM FROM {relation} AS o WHERE {same} FOR {strength};
    EXCEPTION WHEN serialization_failure THEN
      IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE;
      END IF;
    END;
  END IF;

-- name: secure
ALTER TABLE {shadow} ENABLE ROW LEVEL SECURITY

-- name: force
ALTER TABLE {shadow} FORCE ROW LEVEL SECURITY

-- name: policy_read
CREATE POLICY pgduet_read ON {shadow} FOR SELECT USING (true)

-- name: policy_insert
CREATE POLICY pgduet_insert ON {shadow} FOR INSERT WITH CHECK (true)

-- name: policy_update
CREATE POLICY pgduet_update ON {shadow} FOR UPDATE USING ({function}({key})) WITH CHECK (true)

-- name: policy_delete
CREATE POLICY pgduet_delete ON {shadow} FOR DELETE USING ({function}({key}))

-- name: parity
-- One statement, one snapshot: rows that only one side has, or that differ.
SELECT count(*) AS rows, count(*) FILTER (WHERE {differs}) AS mismatches, statement_timestamp() AS at
  FROM (SELECT * FROM {relation} AS o{exists}) AS o FULL JOIN {shadow} AS s ON {same}

-- name: view
-- With its owner's rights, not the caller's: the policies on the shadow bind the owner, and so whoever comes this way.
CREATE OR REPLACE VIEW {view} AS SELECT {columns} FROM {shadow}

-- name: grant_view_owner
GRANT SELECT, INSERT, UPDATE, DELETE ON {shadow} TO {role}

-- name: journal_all
INSERT INTO {journal} SELECT {keys} FROM {relation} AS o WHERE {pages}

-- name: any_noted
SELECT EXISTS (SELECT FROM pgduet.drift WHERE migration_id = %(id)s AND relation = %(relation)s) AS noted

-- name: unmapped
SELECT {key} AS key, {fits}(o) AS error FROM {relation} AS o WHERE {pages} AND {fits}(o) IS NOT NULL LIMIT {limit}

-- name: advance
-- A batch of the copy cannot be done twice: only from where it began, and not over a table that was rewritten since.
UPDATE pgduet.backfill_range
   SET cursor_block = %(block)s, rows_done = rows_done + %(rows)s, batches = batches + 1, updated_at = clock_timestamp()
 WHERE migration_id = %(id)s AND relation = %(relation)s AND part = %(part)s AND cursor_block = %(from)s
   AND relfilenode = pg_relation_filenode(%(relation)s::regclass)

-- name: range_rewritten
-- The table was rewritten: whoever sees it first has all its pages to go through, and puts their keys into the journal; the other ranges are done.
UPDATE pgduet.backfill_range
   SET block_from = CASE WHEN part = %(part)s THEN 0 ELSE block_from END, block_to = CASE WHEN part = %(part)s THEN %(blocks)s ELSE block_to END,
       cursor_block = CASE WHEN part = %(part)s THEN 0 ELSE block_to END, journals = part = %(part)s,
       relfilenode = %(filenode)s, updated_at = clock_timestamp()
 WHERE migration_id = %(id)s AND relation = %(relation)s AND relfilenode <> %(filenode)s

-- name: has_key
SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%(relation)s) AND contype = 'p') AS there
