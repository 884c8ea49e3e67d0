-- name: create_audit
-- The tamper-evident log. Safe to run again, and at the same time as appends: it takes their lock before any table's.
SELECT pg_advisory_xact_lock(1885824097, 1);
CREATE SCHEMA IF NOT EXISTS pgduet;

CREATE TABLE IF NOT EXISTS pgduet.audit (
    seq        bigint PRIMARY KEY,             -- from 1, without gaps
    at         timestamptz NOT NULL,
    actor      text NOT NULL,
    action     text NOT NULL,
    migration  text,
    affected   jsonb NOT NULL,
    reason     text,
    evidence   jsonb NOT NULL,
    prev_hash  bytea NOT NULL UNIQUE,          -- 32 zero bytes for the first entry
    hash       bytea NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS pgduet.audit_head (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    seq   bigint NOT NULL,
    hash  bytea NOT NULL
);
REVOKE ALL ON pgduet.audit, pgduet.audit_head FROM PUBLIC;

CREATE OR REPLACE FUNCTION pgduet.audit_refuse() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% of %.% is refused: the audit log only grows', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE OR REPLACE FUNCTION pgduet.audit_head_moves() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' AND EXISTS (SELECT FROM pgduet.audit) THEN
        RAISE EXCEPTION 'the audit log has entries: its head is not made anew' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF TG_OP = 'UPDATE' AND (NEW.seq <> OLD.seq + 1 OR NOT EXISTS (
        SELECT FROM pgduet.audit a WHERE a.seq = NEW.seq AND a.hash = NEW.hash AND a.prev_hash = OLD.hash)) THEN
        RAISE EXCEPTION 'the head of the audit log only moves on to the entry that follows it'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION pgduet.audit_refuse(), pgduet.audit_head_moves() FROM PUBLIC;

-- Only where one of them is not as it should be: CREATE TRIGGER waits for who writes, and who writes next waits for it.
DO $once$
BEGIN
    IF (SELECT count(*) FROM pg_trigger WHERE tgenabled = 'A' AND NOT tgisinternal
           AND (tgrelid, tgname) IN (('pgduet.audit'::regclass, 'audit_refuse'), ('pgduet.audit_head'::regclass, 'audit_head_refuse'),
                                     ('pgduet.audit_head'::regclass, 'audit_head_moves'))) = 3 THEN
        RETURN;
    END IF;
    CREATE OR REPLACE TRIGGER audit_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON pgduet.audit
        FOR EACH STATEMENT EXECUTE FUNCTION pgduet.audit_refuse();
    CREATE OR REPLACE TRIGGER audit_head_refuse BEFORE DELETE OR TRUNCATE ON pgduet.audit_head
        FOR EACH STATEMENT EXECUTE FUNCTION pgduet.audit_refuse();
    CREATE OR REPLACE TRIGGER audit_head_moves BEFORE INSERT OR UPDATE ON pgduet.audit_head
        FOR EACH ROW EXECUTE FUNCTION pgduet.audit_head_moves();
    -- REPLACE resets this: a session in replica mode must be refused too.
    ALTER TABLE pgduet.audit ENABLE ALWAYS TRIGGER audit_refuse;
    ALTER TABLE pgduet.audit_head ENABLE ALWAYS TRIGGER audit_head_refuse, ENABLE ALWAYS TRIGGER audit_head_moves;
END $once$;

DO $once$
BEGIN
    IF NOT EXISTS (SELECT FROM pgduet.audit_head) AND NOT EXISTS (SELECT FROM pgduet.audit) THEN
        INSERT INTO pgduet.audit_head (seq, hash) VALUES (0, decode(repeat('00', 32), 'hex'));
    END IF;
END $once$;

-- name: lock
-- One appender at a time, to the end of its transaction. The key is 'pgda' and 1, as in create_audit.
SELECT pg_advisory_xact_lock(1885824097, 1), current_setting('transaction_isolation') AS isolation;

-- name: tail
-- A statement of its own, after the lock: its snapshot must see what the last holder committed.
SELECT h.seq, encode(h.hash, 'hex') AS hash,
       to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at
  FROM pgduet.audit_head h;

-- name: head
SELECT h.seq, encode(h.hash, 'hex') AS hash FROM pgduet.audit_head h;

-- name: exists
SELECT to_regclass('pgduet.audit') IS NOT NULL AND to_regclass('pgduet.audit_head') IS NOT NULL AS found;

-- name: insert_entry
INSERT INTO pgduet.audit (seq, at, actor, action, migration, affected, reason, evidence, prev_hash, hash)
VALUES (%(seq)s, %(at)s::timestamptz, %(actor)s, %(action)s, %(migration)s, %(affected)s::jsonb, %(reason)s,
        %(evidence)s::jsonb, decode(%(prev_hash)s, 'hex'), decode(%(hash)s, 'hex'));

-- name: move_head
UPDATE pgduet.audit_head SET seq = %(seq)s, hash = decode(%(hash)s, 'hex');

-- name: page
-- One page of entries after a place, beside the head as the same snapshot sees it; always at least one row.
-- By (seq, hash), not seq alone: rows put in with the constraints dropped must not hide at a page's edge.
SELECT h.seq AS head_seq, encode(h.hash, 'hex') AS head_hash, a.*
  FROM (SELECT) AS one
  LEFT JOIN (SELECT seq, hash FROM pgduet.audit_head) AS h ON true
  LEFT JOIN (
    SELECT seq, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at, actor, action, migration,
           affected::text AS affected, reason, evidence::text AS evidence,
           encode(prev_hash, 'hex') AS prev_hash, encode(hash, 'hex') AS hash
      FROM pgduet.audit
     WHERE (audit.seq, audit.hash) > (%(seq)s, decode(%(hash)s, 'hex'))
     ORDER BY audit.seq, audit.hash
     LIMIT %(rows)s
  ) AS a ON true
 ORDER BY a.seq, a.hash;
