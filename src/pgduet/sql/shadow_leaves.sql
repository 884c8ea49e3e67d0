-- Partitions of an anchor, each by itself (ADR 28, 35): a TRUNCATE of one fires no trigger of the whole table, nor does it to take one away.

-- name: function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on AS {body}

-- name: note
-- Before the rows are gone: what goes is written down, and carried over later.
BEGIN
  EXECUTE {insert} || ' ' || TG_RELID::regclass || ' AS o';
  RETURN NULL;
END

-- name: note_insert
INSERT INTO {journal} SELECT {keys} FROM ONLY

-- name: published
-- By the keys of the rows that go, which nobody else writes meanwhile; the shadow is not locked against new clients.
BEGIN
  PERFORM set_config('pgduet.engine', {label}, true);
  EXECUTE {delete} || ' ' || TG_RELID::regclass || {where};
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN  -- what has come since its snapshot is taken away later
    INSERT INTO pgduet.emptied (relation) VALUES ({label});
  END IF;
  PERFORM set_config('pgduet.engine', '', true);
  RETURN NULL;
END

-- name: published_delete
DELETE FROM {shadow} AS s USING ONLY

-- name: published_where
 AS o WHERE {o_is_s}

-- name: unmoved
BEGIN
  RETURN NEW;
END

-- name: moving
-- To triggers that fire afterwards a row that goes to another partition is one that was deleted and one that was inserted. So the shadow's row gets its
-- new key here, ahead of it: it is the same row to whoever waits for it, and keeps what only the new version has. The anchor's row is held.
DECLARE
  guard text := coalesce(current_setting('pgduet.row', true), '');
BEGIN
  IF {key_changed} AND guard NOT IN ({old_token}, {new_token}) THEN
    PERFORM set_config('pgduet.engine', {label}, true);
    UPDATE {shadow} AS s SET {rekey} WHERE {s_is_old} AND NOT EXISTS (SELECT FROM {shadow} AS s WHERE {s_is_new});
    PERFORM set_config('pgduet.engine', '', true);
  END IF;
  RETURN NEW;
END

-- name: moving_trigger
-- Whichever column of the key decides about a partition, at whichever level.
CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE OF {columns} ON {relation} FOR EACH ROW EXECUTE FUNCTION {function}()

-- name: trigger
CREATE OR REPLACE TRIGGER {trigger} BEFORE TRUNCATE ON {relation} FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: leaves
-- Partitions, and tables with our trigger that are partitions no longer. A partition is told by the row trigger that it has from the whole table, too:
-- DETACH takes that away, and ATTACH gives another one.
WITH now AS (SELECT relid::oid AS oid FROM pg_partition_tree(to_regclass(%(relation)s)) WHERE isleaf AND level > 0),
     heard AS (SELECT t.tgrelid AS oid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
                WHERE t.tgname = %(trigger)s AND n.nspname = 'pgduet' AND p.proname = %(function)s)
SELECT n.nspname AS schema, c.relname AS table, now.oid IS NOT NULL AS attached, heard.oid IS NOT NULL AS heard,
       format('%%s.%%s', c.oid, (SELECT oid FROM pg_trigger WHERE tgrelid = c.oid AND tgname = %(row)s AND tgparentid <> 0)) AS id
  FROM now FULL JOIN heard USING (oid) JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2

-- name: as_known
-- Under a lock that keeps partitions from coming and going: what has come since they were looked at must not go with the old table.
DO {body}

-- name: as_known_body
BEGIN
  IF EXISTS (WITH now AS (SELECT format('%s.%s', p.relid::oid, (SELECT oid FROM pg_trigger WHERE tgrelid = p.relid AND tgname = {row} AND tgparentid <> 0)) AS id
                            FROM pg_partition_tree(to_regclass({relation})) p WHERE p.isleaf AND p.level > 0)
             SELECT FROM now FULL JOIN unnest({known}::text[]) AS known (id) USING (id) WHERE now.id IS NULL OR known.id IS NULL) THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'partitions have come or gone';
  END IF;
END

-- name: by_the_key
SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off

-- name: journal_came
-- Rows of a partition that the shadow has not, or otherwise; what both have keeps what only the new version has.
INSERT INTO {journal} SELECT {keys} FROM {heap} AS o WHERE {pages} AND ({unfit}NOT EXISTS (SELECT FROM {shadow} AS s WHERE {s_is_o}{equal}))

-- name: alone
-- What a partition has by itself, depends on no column, and would go with it.
SELECT format('%%s of %%I.%%I', w.what, n.nspname, c.relname) AS what
  FROM pg_partition_tree(to_regclass(%(relation)s)) p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace,
       LATERAL (SELECT format('trigger %%s', tgname) AS what FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal AND tgparentid = 0
                   AND tgname NOT LIKE '~pgduet%%' AND tgname NOT LIKE '!pgduet%%'
                UNION ALL SELECT format('publication %%s', b.pubname) FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid WHERE r.prrelid = c.oid
                UNION ALL SELECT format('policy %%s', polname) FROM pg_policy WHERE polrelid = c.oid
                UNION ALL SELECT format('rule %%s', rulename) FROM pg_rewrite WHERE ev_class = c.oid
                UNION ALL SELECT format('foreign key %%s to a partition', conname) FROM pg_constraint WHERE confrelid = c.oid AND contype = 'f' AND conparentid = 0) w
 WHERE p.level > 0 ORDER BY 1
