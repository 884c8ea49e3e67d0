-- Partitions of an anchor, each by itself (ADR 28): a TRUNCATE of one fires no trigger of the whole table, nor does it to take one away.

-- name: function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on AS {body}

-- name: note
-- Before the rows are gone: what went is written down, and carried over later. After it there is nothing to do.
BEGIN
  IF TG_WHEN = 'BEFORE' THEN
    EXECUTE format({insert}, TG_RELID::regclass);
  END IF;
  RETURN NULL;
END

-- name: note_insert
INSERT INTO {journal} SELECT {keys} FROM ONLY %s AS o

-- name: published
-- Row by row, as for the whole table.
BEGIN
  IF TG_WHEN = 'AFTER' THEN
    PERFORM set_config('pgduet.engine', {label}, true);
    DELETE FROM {shadow} AS s WHERE NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_s});
    PERFORM set_config('pgduet.engine', '', true);
  END IF;
  RETURN NULL;
END

-- name: trigger
CREATE OR REPLACE TRIGGER {trigger} {when} TRUNCATE ON {relation} FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: strangers
-- Partitions without our triggers, and tables with them that are partitions no longer.
WITH now AS (SELECT relid::oid AS oid FROM pg_partition_tree(to_regclass(%(relation)s)) WHERE isleaf AND level > 0),
     known AS (SELECT t.tgrelid AS oid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
                WHERE t.tgname = %(trigger)s AND n.nspname = 'pgduet' AND p.proname = %(function)s)
SELECT n.nspname AS schema, c.relname AS table, now.oid IS NOT NULL AS attached
  FROM now FULL JOIN known USING (oid) JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE now.oid IS NULL OR known.oid IS NULL ORDER BY 1, 2
