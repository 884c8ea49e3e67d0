-- An empty temporary table with the new columns, on which definitions are tried; always rolled back.

-- name: shape
CREATE TEMPORARY TABLE {shape} ({columns})

-- name: index
CREATE {unique}INDEX _pgduet_shape_index ON pg_temp.{shape} {definition}

-- name: rename
ALTER TABLE pg_temp.{shape} RENAME COLUMN {column} TO {name}

-- name: definition
SELECT pg_get_indexdef(c.oid) AS definition FROM pg_class c WHERE c.relname = '_pgduet_shape_index' AND c.relnamespace = pg_my_temp_schema()
