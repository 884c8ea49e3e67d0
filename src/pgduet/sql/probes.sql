-- Probe writes: one row goes through the real path, is looked at, and everything is rolled back.

-- name: forward
-- An old client's update of a column to itself, in the form that fills, must leave the row filled.
UPDATE {relation} AS t SET {touch}
 WHERE ctid = (SELECT t.ctid FROM {relation} AS t WHERE {mappable} LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
RETURNING NOT {needs} AS good

-- name: reverse
-- A new client gives a row another row's values through the version's view; the old columns must follow.
WITH pair AS (
  SELECT a.ctid AS target, {donors} FROM (SELECT t.ctid FROM {relation} AS t WHERE {mappable} LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) AS a,
         (SELECT t.* FROM {relation} AS t WHERE {mappable} OFFSET 1 LIMIT 1) AS b)
UPDATE {relation} AS t SET {assign} FROM pair WHERE t.ctid = pair.target
RETURNING NOT {inconsistent} AS good
