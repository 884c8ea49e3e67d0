-- Questions about a plan that only rows or types can answer. Nothing is written.

-- name: some
SELECT {value} FROM {relation} AS t LIMIT 1

-- name: down_of_nothing
SELECT {value} IS NULL AS empty FROM (SELECT {row}) AS t

-- name: sample
-- Maps sampled rows up and down again: what comes back empty, and what comes back different.
SELECT count(*) AS rows, {counts}
  FROM (SELECT t.*, {ups} FROM (SELECT * FROM {relation} LIMIT {limit}) AS t) AS t

-- name: count_if
count(*) FILTER (WHERE {condition}) AS {name}

-- name: commonest
-- The value that `up` gives most often in some pages of the table, as text, and its share of their rows.
SELECT value, share FROM (
  SELECT {value}::text AS value, (count(*) / sum(count(*)) OVER ())::float8 AS share
    FROM (SELECT * FROM {relation} TABLESAMPLE SYSTEM ({percent}) LIMIT {limit}) AS t GROUP BY 1) AS counted
 ORDER BY share DESC LIMIT 1
