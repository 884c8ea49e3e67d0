-- A shadow: the rows of a table, the anchor, in another shape (ADR 28). Filled by pgduet.operations.shadow, shadow_sync, shadow_rows.
-- In bodies: `r` and `d` are rows of the anchor, `n` is one of the shadow; `o` and `s` are aliases of the two tables.

-- name: create
CREATE TABLE {shadow} ({parts}){partitioned}

-- name: create_partition
CREATE TABLE {partition} PARTITION OF {shadow} {bound}

-- name: create_journal
CREATE TABLE {journal} ({columns})

-- name: drop_table
DROP TABLE IF EXISTS {relation}

-- name: lock_shared
LOCK TABLE {relation} IN ACCESS SHARE MODE

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

-- name: add_unique
CREATE UNIQUE INDEX CONCURRENTLY {name} ON {shadow} ({columns})

-- name: taken
-- The next keys of the journal. They are back where the transaction fails.
WITH gone AS (DELETE FROM {journal} AS j WHERE j.ctid = ANY (ARRAY(SELECT j.ctid FROM {journal} AS j ORDER BY j.ctid LIMIT {limit} FOR UPDATE SKIP LOCKED))
              RETURNING {journal_key})
INSERT INTO {taken} SELECT DISTINCT * FROM gone

-- name: create_taken
CREATE TEMPORARY TABLE IF NOT EXISTS {taken} (LIKE {journal}) ON COMMIT DELETE ROWS

-- name: held
-- A row that a client holds is left for the next time: we never wait for one.
WITH free AS MATERIALIZED (SELECT {o_key} FROM {relation} AS o JOIN {taken} AS j ON {o_is_j} FOR NO KEY UPDATE OF o SKIP LOCKED),
     held AS (DELETE FROM {taken} AS j WHERE EXISTS (SELECT FROM {relation} AS o WHERE {o_is_j})
                 AND NOT EXISTS (SELECT FROM free AS o WHERE {o_is_j}) RETURNING {journal_key})
INSERT INTO {journal} SELECT * FROM held

-- name: rewrite
-- The rows are ours until the transaction ends, so their sync triggers wait for us or have been before us. What is gone has no row.
WITH gone AS MATERIALIZED (SELECT {o_key} FROM {relation} AS o JOIN {taken} AS j ON {o_is_j} FOR NO KEY UPDATE OF o SKIP LOCKED)
SELECT count(*) FROM gone

-- name: journal_left
SELECT count(*) AS rows FROM {journal}

-- name: trigger
CREATE OR REPLACE TRIGGER {trigger} {when} ON {relation} FOR EACH {each} EXECUTE FUNCTION {function}()

-- name: function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}

-- name: drop_function
DROP FUNCTION IF EXISTS {function}

-- name: note
-- While rows are copied: which rows have changed is all that is written down.
BEGIN
  IF TG_OP <> 'INSERT' THEN
    INSERT INTO {journal} VALUES ({old_key});
  END IF;
  IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND {key_changed} THEN
    INSERT INTO {journal} VALUES ({new_key});
  END IF;
  RETURN NULL;
END

-- name: note_always
-- A snapshot taken before a row was copied does not see that row: such a client's write is written down, and carried over later.
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    IF TG_OP <> 'INSERT' THEN
      INSERT INTO {journal} VALUES ({old_key});
    END IF;
    IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND {key_changed} THEN
      INSERT INTO {journal} VALUES ({new_key});
    END IF;
    RETURN NULL;
  END IF;

-- name: forward
-- Old to new, after the anchor was written. The row is read again: what a trigger of the user's made of it since is newer than NEW.
DECLARE
  guard text := current_setting('pgduet.row', true);
  r {relation}%ROWTYPE;
  n {shadow}%ROWTYPE;
  fits boolean := true;
BEGIN
  IF guard IN ({old_token}, {new_token}) THEN
    RETURN NULL;
  END IF;
{late}
  IF TG_OP = 'DELETE' THEN
    PERFORM set_config('pgduet.row', {old_token}, true);
    DELETE FROM {shadow} AS s WHERE {s_is_old} AND NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_old});
  ELSE
    PERFORM set_config('pgduet.row', {new_token}, true);
    IF TG_OP = 'UPDATE' AND {key_changed} THEN
      UPDATE {shadow} AS s SET {rekey} WHERE {s_is_old} AND NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_old});
    END IF;
    SELECT * INTO r FROM {relation} AS o WHERE {o_is_new};
    IF FOUND THEN
{mapped}
      IF fits THEN
        UPDATE {shadow} AS s SET {assign} WHERE {s_is_n};
        IF NOT FOUND THEN
          INSERT INTO {shadow} ({columns}) VALUES ({values});
        END IF;
      ELSE
        DELETE FROM {shadow} AS s WHERE {s_is_n};
      END IF;
    END IF;
  END IF;
  PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
  RETURN NULL;
END

-- name: mapped
{key}
{assign}

-- name: mapped_guarded
-- An old client must not see an error of ours: what cannot be mapped has no row in the new version, and is noted.
{key}
      BEGIN
{assign}
      EXCEPTION WHEN OTHERS THEN
        fits := false;
        PERFORM pgduet.note_drift({migration_id}, {label}, {drift_key}, 'unmapped', SQLSTATE || ': ' || SQLERRM);
      END;

-- name: required
      IF fits AND ({empty}) THEN
        fits := false;
        PERFORM pgduet.note_drift({migration_id}, {label}, {drift_key}, 'unmapped', 'a column that must not be empty would be');
      END IF;

-- name: exists
      fits := fits AND coalesce({exists}, false);

-- name: truncate
-- Rows by rows once new clients are there: TRUNCATE would lock the shadow, which they lock before the anchor.
BEGIN
  PERFORM set_config('pgduet.emptied', {label}, true);
  DELETE FROM {shadow};
  PERFORM set_config('pgduet.emptied', '', true);
  RETURN NULL;
END

-- name: reverse
-- New to old, before the shadow is written: whoever writes the shadow holds the anchor.
DECLARE
  guard text := current_setting('pgduet.row', true);
  r {relation}%ROWTYPE;
  d {relation}%ROWTYPE;
  tries integer := 0;
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF guard = {old_token} OR current_setting('pgduet.emptied', true) = {label} THEN
      RETURN OLD;
    END IF;
{moved_away}
    PERFORM set_config('pgduet.row', {old_token}, true);
{delete}
    PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
    RETURN OLD;
  END IF;
{number}
  IF guard IN ({old_token}, {new_token}) THEN
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

-- name: number
  IF TG_OP = 'INSERT' AND {column} IS NULL THEN
    {column} := {value};
  END IF;

-- name: delete_row
    DELETE FROM {relation} AS o WHERE {o_is_old};
    IF EXISTS (SELECT FROM {relation} AS o WHERE {o_is_old}) THEN  -- a trigger of the user's kept it
      PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
      RETURN NULL;
    END IF;

-- name: delete_columns
    UPDATE {relation} AS o SET {clear} WHERE {o_is_old};

-- name: update
    SELECT * INTO d FROM {relation} AS o WHERE {o_is_old};
    IF NOT FOUND THEN
      RETURN NULL;
    END IF;
{down}
    PERFORM set_config('pgduet.row', {old_token}, true);
    UPDATE {relation} AS o SET {assign} WHERE {o_is_old};
    IF NOT FOUND THEN  -- a trigger of the user's refused it silently
      PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
      RETURN NULL;
    END IF;
    PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
{moves}

-- name: down_of_changed
    IF {changed} THEN
{down}
    END IF;

-- name: insert_row
{arrived}
{down}
    PERFORM set_config('pgduet.row', {new_token}, true);
    LOOP
      INSERT INTO {relation} ({columns}){overriding} VALUES ({values}) ON CONFLICT DO NOTHING;
      EXIT WHEN FOUND;
{probes}
      tries := tries + 1;
      IF tries > 100 THEN
        -- By a key that is not compared here: PostgreSQL says which. Or a trigger of the user's refused it silently.
        INSERT INTO {relation} ({columns}){overriding} VALUES ({values});
        IF NOT FOUND THEN
          PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
          RETURN NULL;
        END IF;
        tries := 0;
        EXIT;
      END IF;
    END LOOP;
    PERFORM set_config('pgduet.row', coalesce(guard, ''), true);

-- name: probe
      -- It is there: the shadow's own key says so to the client, who has its row from here on.
      PERFORM FROM {relation} AS o WHERE {same} FOR NO KEY UPDATE;
      IF FOUND THEN
        PERFORM set_config('pgduet.row', coalesce(guard, ''), true);
        IF NOT EXISTS (SELECT FROM {shadow} AS s WHERE {conflicts}) THEN
          RAISE EXCEPTION USING ERRCODE = 'unique_violation', CONSTRAINT = {constraint}, SCHEMA = {schema}, TABLE = {table},
            MESSAGE = {message};
        END IF;
        RETURN NEW;
      END IF;

-- name: insert_columns
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
  SET search_path = pg_catalog, pg_temp AS {body}

-- name: lock_body
BEGIN
  IF current_setting('pgduet.row', true) = {token} OR current_setting('pgduet.emptied', true) = {label} THEN
    RETURN true;
  END IF;
  PERFORM FROM {relation} AS o WHERE {o_is_given} FOR {strength};
  RETURN true;
END

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
SELECT count(*) AS rows, count(*) FILTER (WHERE {differs}) AS mismatches
  FROM (SELECT * FROM {relation} AS o{exists}) AS o FULL JOIN {shadow} AS s ON {same}
