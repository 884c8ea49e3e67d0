-- Bodies of the sync triggers. Placeholders are filled by pgduet.operations.sync; the three forms belong to
-- three stretches of the journey (pgduet.phases.SyncMode).

-- name: function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {body}

-- name: fill
-- dual_write to verify: old to new. An update of any column computes the new side anew: such an update may move a row that is not
-- filled yet out of the pages that the backfill has yet to read, and what an unfilled row holds tells nothing (it may have begun
-- with a value).
BEGIN
{mappings}
  RETURN NEW;
END

-- name: insert
-- From publication on: the marker tells a new client's insert, whose empty values are meant, from an old client's.
BEGIN
{mappings}
  NEW.{marker} := NULL;
  RETURN NEW;
END

-- name: insert_moved
-- A row that an UPDATE sends to another partition is inserted there: the update's trigger has mapped it, and says so by the marker.
BEGIN
  IF NEW.{marker} IS DISTINCT FROM {moved} THEN
{mappings}
  END IF;
  NEW.{marker} := NULL;
  RETURN NEW;
END

-- name: insert_mapping
  IF NEW.{marker} IS DISTINCT FROM {by_view} AND {new_empty} THEN
{up}
  ELSE
{down}
  END IF;

-- name: insert_key_mapping
-- An empty key of a new client's means the number that the table's own default has given.
  IF {new_empty} THEN
{up}
  ELSE
{down}
  END IF;

-- name: update
-- From publication on: whichever representation changed is mapped to the other one.
BEGIN
{mappings}
  RETURN NEW;
END

-- name: moving
-- It may go to another partition, where it fires the trigger for INSERT. Where it stays, nobody reads the marker.
  IF {key_changed} THEN
    NEW.{marker} := {moved};
  END IF;

-- name: update_mapping
-- What an old client writes is asked for first, and all of it at once: each expression costs as much as what it compares. A repair
-- gives the marker another value. It writes one side only: mapped back, it would change the other wherever the map is lossy.
  IF {sources_changed} AND {new_same} AND NEW.{marker} IS NOT DISTINCT FROM OLD.{marker} THEN
{up}
  ELSIF {new_changed} AND {old_same} AND NEW.{marker} IS NOT DISTINCT FROM OLD.{marker} THEN
{down}
  END IF;

-- name: update_added
  IF {new_changed} THEN
{down}
  END IF;

-- name: assigned
-- Neither the expressions nor the assignments can raise: there is nothing to catch, which spares a subtransaction (ADR 26).
{assign}
{checks}

-- name: up_guarded
-- An old client must not see an error of ours: what cannot be mapped stays empty and is noted.
    BEGIN
{assign}
    EXCEPTION WHEN OTHERS THEN
{clear}
      PERFORM pgduet.note_drift({migration_id}, {relation}, {key}, 'unmapped', SQLSTATE || ': ' || SQLERRM);
    END;

-- name: up_enforced
-- The new version's contract binds everyone: what it cannot hold is refused before commit.
    BEGIN
{assign}
    EXCEPTION WHEN OTHERS THEN
      RAISE EXCEPTION USING ERRCODE = SQLSTATE,
        MESSAGE = {message} || SQLERRM, HINT = {hint}, SCHEMA = {schema}, TABLE = {table};
    END;
{checks}

-- name: down_refuse
-- What breaks a constraint of the new version is told so, even where PostgreSQL, which asks after us, would refuse it.
{checks}
{attempt}
    IF {lossy} THEN
{late_checks}
      RAISE EXCEPTION USING ERRCODE = 'data_exception',
        MESSAGE = {message}, HINT = {hint}, SCHEMA = {schema}, TABLE = {table};
    END IF;

-- name: down_attempt
    BEGIN
{assign}
    EXCEPTION WHEN OTHERS THEN
{late_checks}
      RAISE EXCEPTION USING ERRCODE = 'data_exception',
        MESSAGE = {message}, DETAIL = SQLERRM, HINT = {hint}, SCHEMA = {schema}, TABLE = {table};
    END;

-- name: down_archive
{checks}
    BEGIN
{assign}
    EXCEPTION WHEN OTHERS THEN
      -- The old side keeps what it has; a new row has nothing there yet.
      IF {empty} THEN
        RAISE EXCEPTION USING ERRCODE = 'data_exception',
          MESSAGE = {message}, DETAIL = SQLERRM, HINT = {hint}, SCHEMA = {schema}, TABLE = {table};
      END IF;
      PERFORM pgduet.note_drift({migration_id}, {relation}, {key}, 'unmappable', SQLSTATE || ': ' || SQLERRM);
    END;

-- name: required
    IF {value} IS NULL THEN
      RAISE EXCEPTION USING ERRCODE = 'not_null_violation', MESSAGE = {message}, HINT = {hint},
        SCHEMA = {schema}, TABLE = {table}, COLUMN = {column};
    END IF;

-- name: try
-- Tells why an expression cannot map a row, or NULL where it can.
CREATE OR REPLACE FUNCTION {function}(t {relation}) RETURNS text LANGUAGE plpgsql STABLE COST 10000 AS {body}

-- name: try_body
DECLARE
{variables}
BEGIN
{assign}
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RETURN SQLSTATE || ': ' || SQLERRM;
END

-- name: trigger
CREATE OR REPLACE TRIGGER {trigger} BEFORE {events} ON {relation} FOR EACH ROW EXECUTE FUNCTION {function}()

-- name: enable_trigger
-- Again after every CREATE OR REPLACE, which resets it: logical apply (session_replication_role = replica) must fire it too.
ALTER TABLE {relation} ENABLE ALWAYS TRIGGER {trigger}

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {relation}

-- name: drop_function
DROP FUNCTION IF EXISTS {function}

-- name: broken
-- What a constraint of the new version refuses, while it binds only writes that come through that version.
    IF {broken} THEN
      RAISE EXCEPTION USING ERRCODE = {code}, MESSAGE = {message}, HINT = {hint},
        SCHEMA = {schema}, TABLE = {table}, CONSTRAINT = {constraint};
    END IF;

-- name: orphan_function
-- Runs with the owner's rights, as PostgreSQL's own check of a foreign key does: a client need not be able to read the target.
-- VOLATILE, so that it sees what the client's own statement has written before.
CREATE OR REPLACE FUNCTION {function}({arguments}) RETURNS boolean LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}

-- name: orphan_body
SELECT NOT EXISTS (SELECT FROM {target} AS r WHERE {same})

-- name: taken_function
CREATE OR REPLACE FUNCTION {function}(own tid, {arguments}) RETURNS boolean LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}

-- name: taken_body
SELECT EXISTS (SELECT FROM {relation} AS t WHERE {same} AND t.ctid IS DISTINCT FROM own)
