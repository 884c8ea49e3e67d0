-- Rows of a changed table by heap pages. A range needs no key, and a block number is all there is to remember.

-- name: pages
({row}.ctid >= {first}::tid AND {row}.ctid < {last}::tid)

-- name: fill
UPDATE {relation} AS t SET {assign} WHERE {pages} AND ({needs})

-- name: fill_unlocked
-- Never waits for a row lock: what a client holds is left for the next try.
UPDATE {relation} AS t SET {assign}
 WHERE ctid = ANY (ARRAY(SELECT t.ctid FROM {relation} AS t WHERE {pages} AND ({needs}) FOR NO KEY UPDATE SKIP LOCKED))

-- name: count_needed
SELECT count(*) FROM {relation} AS t WHERE {pages} AND ({needs})

-- name: mappable
(CASE WHEN {try_up}(t) IS NULL THEN {value} ELSE {otherwise} END)

-- name: judged
(CASE WHEN {try_up}(t) IS NOT NULL THEN true WHEN {try_down}(t) IS NOT NULL THEN {no_way_back} ELSE {condition} END)

-- name: lost
(CASE WHEN {try_down}(t) IS NULL THEN {condition} ELSE true END)

-- name: unmapped
SELECT {key} AS key, {try_up}(t) AS error FROM {relation} AS t WHERE {pages} AND {empty} AND {try_up}(t) IS NOT NULL
 LIMIT {limit}

-- name: parity
-- One statement is one snapshot, and a row holds both representations: the count is exact, without any tolerance.
SELECT count(*) AS rows, count(*) FILTER (WHERE {inconsistent}) AS mismatches, count(*) FILTER (WHERE {violates}) AS violations
  FROM {relation} AS t WHERE {pages}

-- name: duplicates
-- Rows that share a value which is to be unique, but for one of each.
SELECT coalesce(sum(n - 1), 0)::bigint AS rows
  FROM (SELECT count(*) AS n FROM {relation} WHERE {filled} GROUP BY {columns} HAVING count(*) > 1) AS many

-- name: duplicated
SELECT {key} AS key, 'constraint' AS kind, {detail} AS detail
  FROM (SELECT *, {values} AS _pgduet_value, count(*) OVER (PARTITION BY {columns}) AS _pgduet_times FROM {relation} WHERE {filled}) AS t
 WHERE _pgduet_times > 1 ORDER BY _pgduet_value LIMIT {limit}

-- name: clashes
-- Pairs of rows that may not both be there, each counted once. Each row is compared with each: such tables are small.
SELECT count(*) AS rows
  FROM (SELECT ctid AS _id, {values} FROM {relation} WHERE {where}) AS t, (SELECT ctid AS _id, {values} FROM {relation} WHERE {where}) AS o
 WHERE t._id < o._id AND {clash}

-- name: clashing
SELECT {key} AS key, 'constraint' AS kind, {detail} AS detail
  FROM (SELECT *, ctid AS _id, {values} FROM {relation} WHERE {where}) AS t
 WHERE EXISTS (SELECT FROM (SELECT ctid AS _id, {values} FROM {relation} WHERE {where}) AS o WHERE t._id <> o._id AND {clash}) LIMIT {limit}

-- name: differing
SELECT {key} AS key, CASE WHEN {violates} THEN 'constraint' ELSE 'mismatch' END AS kind, {detail} AS detail
  FROM {relation} AS t WHERE {pages} AND ({inconsistent} OR {violates}) LIMIT {limit}

-- name: repair_new
UPDATE {relation} AS t SET {assign} WHERE {pages} AND {inconsistent}

-- name: archive
-- All of a table in one snapshot: page by page in several, a row that moves meanwhile could be missed.
INSERT INTO pgduet_archive.value (migration, attempt, relation, key, side, mapping, kept, beside)
SELECT {migration}, {attempt}, {label}, {key}, {side}, {mapping}, {kept}, {beside} FROM {relation} AS t WHERE {pages} AND {differs}

-- name: archived_ids
-- The next archived values of one mapping, by id.
SELECT id FROM pgduet_archive.value
 WHERE migration = %(migration)s AND relation = %(relation)s AND mapping = %(mapping)s AND side = 'new'
   AND restored_at IS NULL AND id > %(after)s
   -- What an earlier attempt saved of a row is outdone by what a later one did.
   AND NOT EXISTS (SELECT FROM pgduet_archive.value later
                    WHERE later.migration = value.migration AND later.relation = value.relation AND later.side = 'new'
                      AND later.mapping = value.mapping AND later.key = value.key AND later.attempt > value.attempt)
 ORDER BY id LIMIT %(limit)s

-- name: restore
-- A value comes back where nobody has written since: the row still has what `up` gives, and the old side what it held then.
WITH back AS (
  UPDATE {relation} AS t SET {assign}
    FROM (SELECT id, kept, beside, {key_columns} FROM pgduet_archive.value WHERE id = ANY ({ids})
             AND migration = {migration} AND relation = {label} AND mapping = {mapping} AND side = 'new'
             AND restored_at IS NULL) AS a
   WHERE {same_row} AND NOT ({differs}) AND {beside} = a.beside
  RETURNING a.id)
UPDATE pgduet_archive.value v SET restored_at = clock_timestamp() FROM back WHERE v.id = back.id
