-- What the phases ask of a shadow beside filling and writing it: probes, samples, the archive (ADR 28).
-- `o` is a row of the anchor, or of the old version's view; `s` one of the shadow, or of the new version's.

-- name: owner
-- Whom policies bind who runs the new version's view: neither a superuser nor one with BYPASSRLS. Before PostgreSQL 16 who may create
-- roles may grant any of them.
SELECT current_user::text AS role, rolsuper OR rolbypassrls AS unbound, rolsuper OR rolcreaterole AS may_create, to_regrole({role}) IS NOT NULL AS there,
       rolsuper OR coalesce(pg_has_role(current_user, to_regrole({role}), CASE WHEN late THEN 'SET' ELSE 'MEMBER' END), false) AS may_be,
       rolcreaterole AND NOT late OR coalesce(pg_has_role(current_user, to_regrole({role}), 'MEMBER WITH ADMIN OPTION'), false) AS may_grant
  FROM pg_roles, (SELECT current_setting('server_version_num')::int >= 160000 AS late) AS v WHERE rolname = current_user

-- name: create_owner
CREATE ROLE {role} NOLOGIN

-- name: be_owner
GRANT {role} TO CURRENT_USER

-- name: may_own
GRANT CREATE ON SCHEMA {schema} TO {role}

-- name: may_own_no_more
REVOKE CREATE ON SCHEMA {schema} FROM {role}

-- name: touch
-- An old client's update of a column to itself.
UPDATE {heap} AS o SET {touch} WHERE ctid = (SELECT o.ctid FROM {heap} AS o LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) RETURNING {key}

-- name: noted
SELECT EXISTS (SELECT FROM {journal} AS j WHERE {same}) AS good

-- name: some_row
SELECT {key} FROM {shadow} AS s LIMIT 1

-- name: lock_row
SELECT FROM {relation} AS o WHERE {same} FOR NO KEY UPDATE SKIP LOCKED

-- name: give
-- A new client gives a row another row's value.
UPDATE {shadow} AS s SET {column} = coalesce((SELECT b.{column} FROM {shadow} AS b OFFSET 1 LIMIT 1), s.{column}) WHERE {same}

-- name: follows
SELECT {follows} AS good FROM {relation} AS o JOIN {shadow} AS s ON {joined} WHERE {same}

-- name: keys
SELECT {key} FROM {heap} AS o WHERE {pages} LIMIT {limit}

-- name: read
SELECT {columns} FROM {view} WHERE {same}

-- name: sample
-- One snapshot of both versions' rows: one is missing, or what each says of the other is not so.
SELECT count(*) AS rows, count(*) FILTER (WHERE {differs}) AS mismatches
  FROM {old} AS o LEFT JOIN {new} AS s ON {joined} WHERE {same}

-- name: archive_new
INSERT INTO pgduet_archive.value (migration, attempt, relation, key, side, mapping, kept, beside)
SELECT {migration}, {attempt}, {label}, {key}, 'new', {position}, {kept}, {beside}
  FROM {relation} AS o JOIN {shadow} AS s ON {joined} WHERE {differs}

-- name: archive_old
INSERT INTO pgduet_archive.value (migration, attempt, relation, key, side, mapping, kept, beside)
SELECT {migration}, {attempt}, {label}, {key}, 'old', {position}, {kept}, {beside}
  FROM {relation} AS o JOIN {shadow} AS s ON {joined} WHERE {back}(s) IS DISTINCT FROM {kept}

-- name: back
-- What `down` gives for a row of the shadow, as text; NULL where it raises.
CREATE OR REPLACE FUNCTION {function}(s {shadow}) RETURNS jsonb LANGUAGE plpgsql STABLE COST 10000 SET search_path = pg_catalog, pg_temp AS {body}

-- name: back_body
BEGIN
  RETURN {texts};
EXCEPTION WHEN OTHERS THEN
  RETURN NULL;
END

-- name: engine
SELECT set_config('pgduet.engine', {label}, true)

-- name: restore
-- A value comes back where nobody has written since: the row has what `up` gives, and the anchor what it held then.
WITH wanted AS (SELECT id, kept, beside, {key_columns} FROM pgduet_archive.value
                 WHERE id = ANY ({ids}) AND migration = {migration} AND relation = {label} AND mapping = {position} AND side = 'new'
                   AND restored_at IS NULL),
  held AS MATERIALIZED (SELECT a.* FROM {relation} AS o JOIN wanted AS a ON {o_is_a} FOR NO KEY UPDATE OF o),
  back AS (UPDATE {shadow} AS s SET {assign} FROM held AS a JOIN {relation} AS o ON {o_is_a}
            WHERE {joined} AND {beside} = a.beside AND NOT ({differs}) RETURNING a.id)
UPDATE pgduet_archive.value v SET restored_at = clock_timestamp() FROM back WHERE v.id = back.id

-- name: writers
-- Transactions that may still write a table by the functions that they began with.
SELECT DISTINCT virtualtransaction AS who FROM pg_locks
 WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
   AND relation IN (SELECT to_regclass({relation})::oid UNION SELECT relid FROM pg_partition_tree(to_regclass({relation})))
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid IS DISTINCT FROM pg_backend_pid()

-- name: pages
SELECT coalesce(sum(pg_relation_size(relid)) / current_setting('block_size')::int, 0)::bigint AS pages
  FROM (SELECT to_regclass({relation}) AS relid UNION SELECT relid FROM pg_partition_tree(to_regclass({relation}))) AS t
