-- What a write leaves in a journal of keys, of a shadow or of a merge.

-- name: noted
-- A row trigger's last words: the row's key, and both where it has another one now.
  IF TG_OP <> 'INSERT' THEN
    INSERT INTO {journal} VALUES ({old_key});
  END IF;
  IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND {key_changed} THEN
    INSERT INTO {journal} VALUES ({new_key});
  END IF;
  RETURN NULL;
