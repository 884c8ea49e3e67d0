-- A shadow takes its anchor's name at cutover, and gives it back. Filled by pgduet.operations.shadow_swap.

-- name: published
SELECT pubname AS name FROM pg_publication_tables WHERE schemaname = %(schema)s AND tablename = %(table)s ORDER BY pubname

-- name: unbound
-- Roles that could come by the table's name and that row level security does not bind; the worker's own does not.
SELECT rolname::text AS name FROM pg_roles
 WHERE rolcanlogin AND (rolsuper OR rolbypassrls) AND rolname <> current_user ORDER BY rolname

-- name: unbound_now
-- Such roles whose sessions the census has seen at a table by its name, and that are there still.
SELECT DISTINCT c.who FROM pgduet.client c
  JOIN pg_stat_activity a ON starts_with(c.client_id, format('%%s/%%s/table/', a.usename, a.application_name)) AND a.datname = current_database()
  JOIN pg_roles r ON r.oid = a.usesysid
 WHERE c.migration = %(migration)s AND c.kind = 'session' AND c.via = 'table' AND (r.rolsuper OR r.rolbypassrls) ORDER BY c.who

-- name: forget
-- Whoever names the table is of the other side from here on: the census counts anew.
DELETE FROM pgduet.client WHERE migration = %(migration)s AND kind = 'session' AND via = 'table' AND side = %(side)s

-- name: lock_view
-- Locks a view and nothing that it reads, as LOCK TABLE would: the option is not set, and stays so.
ALTER VIEW {view} RESET (security_barrier)

-- name: drop_default
ALTER TABLE {relation} ALTER COLUMN {column} DROP DEFAULT

-- name: about
SELECT conname AS key FROM pg_constraint WHERE conrelid = %(relation)s::regclass AND contype = 'p'

-- name: emptied_function
-- Whoever writes through the old version holds the old table and waits for the new one, which TRUNCATE has locked: it gives way, soon.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET row_security = on SET lock_timeout = {timeout} AS {body}

-- name: emptied
-- Policies say nothing of TRUNCATE: who empties the table by its name empties the old one with it.
BEGIN
  IF current_setting('pgduet.engine', true) = {label} THEN
    RETURN NULL;
  END IF;
  PERFORM set_config('pgduet.engine', {label}, true);
  TRUNCATE {relation};
  PERFORM set_config('pgduet.engine', '', true);
  RETURN NULL;
END
