-- A primary key whose columns change in place: what stands on it, who may have a key, and the key's new form at contract.

-- name: key
-- The primary key of a table; read with an empty search_path.
SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition, k.condeferrable AS deferrable, k.condeferred AS deferred,
       ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey))::text[] AS columns,
       ARRAY(SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d
              WHERE d.refclassid = 'pg_constraint'::regclass AND d.refobjid = k.oid AND d.deptype = 'n' ORDER BY 1)::text[] AS others
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype = 'p'
 WHERE i.indrelid = %(oid)s::oid AND i.indisprimary

-- name: inbound
-- Foreign keys that refer to a table, its own as well; read with an empty search_path.
SELECT k.conname AS name, n.nspname AS schema_name, c.relname AS table, c.relkind::text AS kind, k.convalidated AS valid,
       pg_has_role(current_user, c.relowner, 'USAGE') AS owned, l.names AS columns, l.targets AS target_columns,
       substr(replace(pg_get_constraintdef(k.oid), ' NOT VALID', ''), 1 + length(format('FOREIGN KEY (%%s) REFERENCES %%s(%%s)',
         l.listed, k.confrelid::regclass, l.targets_listed))) AS tail, l.narrow
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
  LATERAL (SELECT array_agg(a.attname::text ORDER BY u.place) AS names, string_agg(quote_ident(a.attname), ', ' ORDER BY u.place) AS listed,
                  array_agg(t.attname::text ORDER BY u.place) AS targets, string_agg(quote_ident(t.attname), ', ' ORDER BY u.place) AS targets_listed,
                  bool_or(a.atttypid IN ('int2'::regtype, 'int4'::regtype)) AS narrow
             FROM unnest(k.conkey, k.confkey) WITH ORDINALITY u(own, target, place)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.own
             JOIN pg_attribute t ON t.attrelid = k.confrelid AND t.attnum = u.target) l
 WHERE k.confrelid = %(oid)s::oid AND k.contype = 'f' AND k.conparentid = 0 ORDER BY n.nspname, c.relname, k.conname

-- name: numbering
-- Sequences that belong to columns of the primary key, and their bounds where these are not the type's own.
SELECT a.attname AS column, a.attidentity::text AS identity, n.nspname AS schema_name, c.relname AS name, q.seqstart AS start,
       q.seqincrement AS increment, q.seqcache AS cache, q.seqcycle AS cycle,
       CASE WHEN q.seqmin NOT IN (1, -32768, -2147483648) THEN q.seqmin END AS smallest,
       CASE WHEN q.seqmax NOT IN (-1, 32767, 2147483647, 9223372036854775807) THEN q.seqmax END AS largest
  FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_sequence q ON q.seqrelid = c.oid JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  JOIN pg_index i ON i.indrelid = d.refobjid AND i.indisprimary AND a.attnum = ANY (i.indkey)
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s::oid AND d.deptype IN ('a', 'i')
 ORDER BY a.attnum

-- name: claims
-- Who is about to insert a key has a row here: the next one waits for the end of his transaction. A lock table would run full.
CREATE UNLOGGED TABLE IF NOT EXISTS {claims} (key bigint PRIMARY KEY) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)

-- name: drop_claims
DROP TABLE IF EXISTS {claims}

-- name: claim
-- A trigger's function cannot be called by anybody, who could lock rows by it.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}

-- name: claim_body
-- Of a row that is there, keep whoever would delete it away, and where it is about to be updated, whoever would update it: as the
-- client's own statement will. So it finds the row. Of one that is not, let nobody else insert it.
DECLARE
  how text := current_setting('pgduet.writes', true);
BEGIN
  IF how = 'UPDATE KEY' THEN
    PERFORM FROM {relation} AS t WHERE {same} FOR UPDATE;
  ELSIF how = 'UPDATE' THEN
    PERFORM FROM {relation} AS t WHERE {same} FOR NO KEY UPDATE;
  ELSE
    PERFORM FROM {relation} AS t WHERE {same} FOR KEY SHARE;
  END IF;
  IF NOT FOUND THEN
    INSERT INTO {claims} VALUES ({key});
    DELETE FROM {claims} AS c WHERE c.key = {key};
    IF how = 'UPDATE KEY' THEN
      PERFORM FROM {relation} AS t WHERE {same} FOR UPDATE;
    ELSE
      PERFORM FROM {relation} AS t WHERE {same} FOR NO KEY UPDATE;
    END IF;
  END IF;
  RETURN NEW;
END

-- name: say_body
-- An INSERT that may update is announced as both, in this order.
BEGIN
  PERFORM set_config('pgduet.writes', CASE WHEN TG_NARGS > 0 THEN TG_ARGV[0] ELSE TG_OP END, true);
  RETURN NULL;
END

-- name: say_trigger
CREATE OR REPLACE TRIGGER {trigger} BEFORE {events} ON {relation} FOR EACH STATEMENT EXECUTE FUNCTION {function}({arguments})

-- name: own_sequence
ALTER SEQUENCE {sequence} OWNED BY {relation}.{column}

-- name: widen_sequence
ALTER SEQUENCE {sequence} AS {type}

-- name: add_identity
ALTER TABLE {relation} ALTER COLUMN {column} ADD GENERATED {how} AS IDENTITY (SEQUENCE NAME {sequence} {options})

-- name: go_on
-- Nobody inserts meanwhile: the table is locked.
SELECT setval({new}::regclass, s.last_value, s.is_called) FROM {sequence} AS s

-- name: rename_sequence
ALTER SEQUENCE {sequence} RENAME TO {name}
