-- Reads of sampled keys through both versions.

-- name: keys
-- Keys of one page of the heap.
SELECT {keys} FROM {relation} AS t WHERE {pages} LIMIT {limit}

-- name: read
SELECT {columns} FROM {view} WHERE {same}

-- name: compare
-- One snapshot of both versions' rows, compared by what each says of the other.
SELECT count(*) AS rows, count(*) FILTER (WHERE {differs}) AS mismatches
  FROM {old} AS o JOIN {new} AS n ON {join} WHERE {same}
