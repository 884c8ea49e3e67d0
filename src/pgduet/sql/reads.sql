-- Reads of sampled keys through both versions.

-- name: keys
-- Keys of one page of the heap.
SELECT {keys} FROM {relation} AS t WHERE {pages} LIMIT {limit}

-- name: shown
-- The columns that a view has.
SELECT a.attname AS name FROM pg_attribute a
 WHERE a.attrelid = to_regclass(%(view)s) AND a.attnum > 0 AND NOT a.attisdropped

-- name: read
SELECT {columns} FROM {view} WHERE {same}

-- name: compare
-- One snapshot of both versions' rows, compared by what each says of the other.
SELECT count(*) AS rows, count(*) FILTER (WHERE {differs}) AS mismatches
  FROM {old} AS o JOIN {new} AS n ON {join} WHERE {same}
