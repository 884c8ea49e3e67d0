-- A source table beside its shadow: rows are paired by key, in one statement and so in one snapshot.
-- `s` is a row of the source, `f` one of the shadow. A side is missing where its key is NULL: keys are NOT NULL on both sides.

-- name: side
(SELECT {also} {row}.* FROM {relation} AS {row} WHERE {where}) AS {row}

-- name: versions
-- Which version of a row it is. Asked of each row, not of those that differ alone, it would cost a fifth of a comparison.
{row}.tableoid AS _pgduet_t, {row}.ctid AS _pgduet_c, {row}.xmin AS _pgduet_x,

-- name: chunk
-- Each aggregate costs something for each row: what can be told of those that differ is not counted here.
SELECT count(*) AS pairs, {found} FROM {source} FULL JOIN {shadow} ON {match}

-- name: named
-- What is said of a row is made for those that differ only: the filter stands before the arguments.
coalesce(jsonb_agg(jsonb_build_array({kind}, {key})) FILTER (WHERE {bad}), '[]') AS found

-- name: counted
count(*) FILTER (WHERE {bad}) AS bad, count(*) FILTER (WHERE {shadow_key} IS NULL) AS missing,
count(*) FILTER (WHERE {source_key} IS NULL) AS extra

-- name: bad
({source_key} IS NULL OR {shadow_key} IS NULL OR {differs})

-- name: kind
CASE WHEN {source_key} IS NULL THEN 'extra' WHEN {shadow_key} IS NULL THEN 'missing' ELSE 'mismatch' END

-- name: key
CASE WHEN {source_key} IS NULL THEN {shadow_names} ELSE {source_names} END

-- name: seen
-- Which versions of the two rows were seen: an update makes another one.
concat_ws(' ', s._pgduet_t, s._pgduet_c, s._pgduet_x, '/', f._pgduet_t, f._pgduet_c, f._pgduet_x)

-- name: bound
-- The key up to which neither side has more than so many rows; no row where both end before.
SELECT {texts} AS bound
  FROM ((SELECT {source_keys} FROM {source} AS s WHERE {source_span} ORDER BY {source_order} OFFSET {rows} LIMIT 1)
        UNION ALL
        (SELECT {shadow_keys} FROM {shadow} AS f WHERE {shadow_span} ORDER BY {shadow_order} OFFSET {rows} LIMIT 1)) AS u
 ORDER BY {order} LIMIT 1

-- name: extent
-- The first and the last key of both sides, where keys are whole numbers.
SELECT least((SELECT min({source_key})::bigint FROM {source} AS s), (SELECT min({shadow_key})::bigint FROM {shadow} AS f)) AS lowest,
       greatest((SELECT max({source_key})::bigint FROM {source} AS s), (SELECT max({shadow_key})::bigint FROM {shadow} AS f)) AS highest

-- name: quantiles
-- Keys that cut the source in parts of about one size, by a sample of its pages.
SELECT {texts} AS bound
  FROM (SELECT DISTINCT ON (part) * FROM (SELECT {keys}, ntile({parts}) OVER (ORDER BY {source_order}) AS part
                                            FROM {source} AS s TABLESAMPLE SYSTEM ({percent})) AS u
         ORDER BY part DESC, {descending}) AS u
 ORDER BY part

-- name: spanned
-- The source's keys of a span that a comparison raises on.
SELECT {names} AS key FROM {source} AS s WHERE {span} ORDER BY {order} LIMIT {limit}

-- name: keys
jsonb_to_recordset({keys}) AS k({columns})

-- name: look
-- Suspects again, in a new snapshot; no kind where the sides agree now.
SELECT k._pgduet_id AS id, CASE WHEN {gone} THEN NULL WHEN {bad} THEN {kind} END AS kind, {key} AS key, {seen} AS seen, {detail} AS detail
  FROM {keys} LEFT JOIN {first} ON {found} LEFT JOIN {second} ON {match}

-- name: lock_rows
SELECT count(*) AS locked
  FROM (SELECT FROM {relation} AS {row} WHERE {among} ORDER BY {order} FOR UPDATE OF {row}) AS locked

-- name: among
({columns}) IN (SELECT {names} FROM {keys})

-- name: insert_missing
INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {values} FROM {origin} AS {row} WHERE {among} AND {wanted} AND NOT EXISTS (SELECT FROM {target} AS {other} WHERE {match})
ON CONFLICT DO NOTHING

-- name: update_differing
UPDATE {target} AS {other} SET {assign} FROM {origin} AS {row} WHERE {among} AND {match} AND {differs}

-- name: assigned
{name} = CASE WHEN {differs} THEN {value} ELSE {other}.{name} END

-- name: delete_extra
DELETE FROM {target} AS {other} WHERE {among} AND NOT EXISTS (SELECT FROM {origin} AS {row} WHERE {match} AND {wanted})

-- name: note_keys
-- Before the shadow is published: the drain reads these rows again, each under its lock.
INSERT INTO {journal} SELECT {key} FROM {keys}

-- name: engine
SELECT set_config('pgduet.engine', {label}, true)

-- name: row
-- The row that is about to be written for both sides: neither side's trigger answers the other.
SELECT set_config('pgduet.row', {token}, true) FROM {keys}

-- name: clear_columns
-- The extracted row is gone: so are the columns that it was made from.
UPDATE {target} AS s SET {clear} WHERE {among} AND {wanted} AND NOT EXISTS (SELECT FROM {origin} AS f WHERE {match})

-- name: traits
-- What decides how values of a column are compared: domains are looked through, arrays are judged by what they hold.
WITH RECURSIVE held AS (
  SELECT a.attname AS name, a.attnum, a.atttypid AS type_oid, false AS listed
    FROM pg_attribute a WHERE a.attrelid = %(relation)s::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT h.name, h.attnum, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END, h.listed OR t.typtype <> 'd'
    FROM held h JOIN pg_type t ON t.oid = h.type_oid WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typelem <> 0)
)
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null, a.attgenerated <> '' AS generated,
       CASE WHEN a.attcollation <> 0 THEN (SELECT format('%%I.%%I', n.nspname, c.collname) FROM pg_collation c
                                             JOIN pg_namespace n ON n.oid = c.collnamespace WHERE c.oid = a.attcollation) END AS collation,
       t.typname AS base, t.typtype AS class, t.typnamespace = 'pg_catalog'::regnamespace AS built_in, h.listed
  FROM pg_attribute a
  JOIN held h ON h.attnum = a.attnum
  JOIN pg_type t ON t.oid = h.type_oid AND t.typtype <> 'd' AND NOT (t.typcategory = 'A' AND t.typelem <> 0)
 WHERE a.attrelid = %(relation)s::text::regclass
 ORDER BY a.attnum

-- name: unique_keys
-- The columns of each index by which rows are unique, whatever happens.
SELECT array_agg(a.attname ORDER BY k.place)::text[] AS columns
  FROM pg_index i
 CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, place)
  LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
 WHERE i.indrelid = %(relation)s::text::regclass AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND k.place <= i.indnkeyatts
 GROUP BY i.indexrelid
HAVING bool_and(a.attname IS NOT NULL AND a.attnotnull)

-- name: referring
-- Columns by which a table refers to others.
SELECT DISTINCT a.attname AS name FROM pg_constraint c CROSS JOIN LATERAL unnest(c.conkey) AS k(attnum)
  JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
 WHERE c.conrelid = %(relation)s::text::regclass AND c.contype = 'f'

-- name: size
SELECT greatest(sum(c.reltuples) FILTER (WHERE c.reltuples >= 0), 0)::float8 AS rows, bool_or(c.reltuples < 0) AS unknown
  FROM pg_class c
 WHERE c.relkind = 'r' AND c.oid IN (SELECT %(relation)s::text::regclass UNION SELECT relid FROM pg_partition_tree(%(relation)s::text::regclass))

-- name: told_of
-- What statistics tell of a column: how closely the pages follow it, and its histogram. Nothing where there are none, or none are shown.
SELECT s.correlation, s.histogram_bounds::text AS bounds
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname
 WHERE c.oid = %(relation)s::text::regclass AND s.attname = %(name)s
 ORDER BY s.inherited DESC LIMIT 1

-- name: begin
INSERT INTO pgduet.comparison (migration_id, source, shadow, part, shape, request, before, low, high)
VALUES (%(id)s, %(source)s, %(shadow)s, %(part)s, %(shape)s, %(request)s, %(before)s, %(low)s, %(high)s) RETURNING id

-- name: forget
DELETE FROM pgduet.comparison WHERE migration_id = %(id)s AND source = %(source)s AND shadow = %(shadow)s

-- name: parts
SELECT * FROM pgduet.comparison WHERE migration_id = %(id)s AND source = %(source)s AND shadow = %(shadow)s ORDER BY part

-- name: begun
SELECT id FROM pgduet.comparison WHERE migration_id = %(id)s AND request = %(request)s LIMIT 1

-- name: part
SELECT * FROM pgduet.comparison WHERE id = %(id)s

-- name: advance
-- The cursor, and what differs up to it: one statement, and so one transaction.
WITH suspects AS (
  INSERT INTO pgduet.suspect (comparison_id, kind, key, seen)
  SELECT %(id)s, found ->> 0, found -> 1, found ->> 2 FROM jsonb_array_elements(%(found)s::jsonb) AS found)
UPDATE pgduet.comparison
   SET reached = %(reached)s, rows = rows + %(rows)s, shadow_rows = shadow_rows + %(shadow_rows)s, mismatches = mismatches + %(mismatches)s,
       missing = missing + %(missing)s, extra = extra + %(extra)s, unmapped = unmapped + %(unmapped)s, named = named + %(named)s,
       chunks = chunks + 1, updated_at = clock_timestamp(), finished_at = CASE WHEN %(finished)s THEN clock_timestamp() END
 WHERE id = %(id)s

-- name: due
-- Suspects that were seen long enough ago, and are not confirmed yet.
SELECT id, kind, key, seen, looks, seen_at <= clock_timestamp() - make_interval(secs => %(after_s)s) AS due
  FROM pgduet.suspect
 WHERE comparison_id = ANY (%(ids)s) AND confirmed_at IS NULL AND looks <= %(looks)s
 ORDER BY seen_at, id LIMIT %(limit)s

-- name: waiting
SELECT greatest(extract(epoch FROM min(seen_at) + make_interval(secs => %(after_s)s) - clock_timestamp()), 0)::float8 AS seconds
  FROM pgduet.suspect WHERE comparison_id = ANY (%(ids)s) AND confirmed_at IS NULL AND looks <= %(looks)s

-- name: cleared
DELETE FROM pgduet.suspect WHERE id = ANY (%(ids)s)

-- name: confirmed
UPDATE pgduet.suspect SET confirmed_at = clock_timestamp() WHERE id = ANY (%(ids)s)

-- name: all_confirmed
UPDATE pgduet.suspect SET confirmed_at = clock_timestamp() WHERE comparison_id = ANY (%(ids)s) AND confirmed_at IS NULL

-- name: unsettled
UPDATE pgduet.suspect s SET kind = n.kind, key = n.key, seen = n.seen, seen_at = clock_timestamp(), looks = looks + 1
  FROM jsonb_to_recordset(%(found)s::jsonb) AS n(id bigint, kind text, key jsonb, seen text) WHERE s.id = n.id

-- name: tally
SELECT kind, confirmed_at IS NOT NULL AS confirmed, count(*) AS rows FROM pgduet.suspect
 WHERE comparison_id = ANY (%(ids)s) GROUP BY 1, 2

-- name: drifted
-- Confirmed ones, the next of them by key: rows are locked in that order.
SELECT id, kind, key, seen FROM pgduet.suspect
 WHERE comparison_id = ANY (%(ids)s) AND confirmed_at IS NOT NULL AND id > %(after)s ORDER BY id LIMIT %(limit)s

-- name: note
SELECT pgduet.note_drift(%(migration)s, %(relation)s, n.key, n.kind, n.detail)
  FROM jsonb_to_recordset(%(found)s::jsonb) AS n(key jsonb, kind text, detail text)

-- name: resolved
-- Of this table, what a whole comparison did not find again.
UPDATE pgduet.drift SET resolved_at = clock_timestamp()
 WHERE migration_id = %(migration)s AND relation = %(relation)s AND resolved_at IS NULL AND seen_at < %(before)s

-- name: aggregates
-- Both sides in one statement; a group that one side lacks, NULL included, is a difference.
SELECT groups, old, new, old_groups, new_groups, count(*) OVER () AS differing
  FROM (SELECT groups, (array_agg(value) FILTER (WHERE side = 'old'))[1] AS old, (array_agg(value) FILTER (WHERE side = 'new'))[1] AS new,
               count(*) FILTER (WHERE side = 'old') AS old_groups, count(*) FILTER (WHERE side = 'new') AS new_groups
          FROM (SELECT 'old' AS side, {old_groups} AS groups, ({old_value})::text AS value FROM {old} AS t WHERE {only} GROUP BY {old_by}
                UNION ALL
                SELECT 'new', {new_groups}, ({new_value})::text FROM {new} AS t GROUP BY {new_by}) AS sides
         GROUP BY groups) AS compared
 WHERE {differs}
 ORDER BY groups LIMIT {limit}

-- name: began
SELECT min(began_at) AS at, max(before) AS before FROM pgduet.comparison WHERE id = ANY (%(ids)s)

-- name: examples
SELECT kind, key FROM pgduet.suspect
 WHERE comparison_id = ANY (%(ids)s) AND confirmed_at IS NOT NULL ORDER BY comparison_id, id LIMIT %(limit)s

-- name: measured
SELECT {function}(NULL::{type})

-- name: grouped
SELECT {function}(*) FROM (SELECT NULL::{type} AS value) AS t GROUP BY value
