-- name: create_metadata
-- The product's own schemas and tables. Safe to run again.
CREATE SCHEMA IF NOT EXISTS pgduet;
CREATE SCHEMA IF NOT EXISTS pgduet_views;
CREATE SCHEMA IF NOT EXISTS pgduet_archive;

CREATE TABLE IF NOT EXISTS pgduet.migration (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL,
    database      text NOT NULL,
    attempt       integer NOT NULL,
    checksum      text NOT NULL,
    from_version  text NOT NULL,
    to_version    text NOT NULL,
    plan          jsonb NOT NULL,
    design        jsonb NOT NULL,              -- the plan resolved against the catalogue at preflight
    workflow_id   text NOT NULL,
    phase         text NOT NULL,
    state         text NOT NULL,
    authority     text NOT NULL DEFAULT 'old',
    sync_mode     text,
    compensations jsonb NOT NULL DEFAULT '[]',
    controls      jsonb NOT NULL DEFAULT '{}', -- pause and throttle, read by a running slice
    parity        jsonb,
    published_at  timestamptz,
    flipped_at    timestamptz,
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at      timestamptz,
    UNIQUE (name, attempt)
);

CREATE TABLE IF NOT EXISTS pgduet.backfill_range (
    migration_id bigint NOT NULL REFERENCES pgduet.migration ON DELETE CASCADE,
    relation     text NOT NULL,                -- quoted name with schema
    part         integer NOT NULL,
    block_from   bigint NOT NULL,
    block_to     bigint NOT NULL,              -- exclusive, fixed when the backfill began
    cursor_block bigint NOT NULL,              -- the next block to fill; written in the batch's transaction
    relfilenode  oid NOT NULL,                 -- a rewrite of the table moves rows: the range starts again
    rows_done    bigint NOT NULL DEFAULT 0,
    batches      bigint NOT NULL DEFAULT 0,
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration_id, relation, part)
);

-- Once: an ALTER that finds the column waits for batches all the same.
DO $once$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pgduet.backfill_range'::regclass AND attname = 'journals') THEN
        -- A shadow's table was rewritten while it was copied: this range puts keys into the journal, and copies no rows.
        ALTER TABLE pgduet.backfill_range ADD COLUMN journals boolean NOT NULL DEFAULT false;
    END IF;
END $once$;

-- The next key of a range that goes by keys and not by pages; in the batch's transaction, as the cursor of pages is.
CREATE TABLE IF NOT EXISTS pgduet.key_cursor (
    migration_id bigint NOT NULL REFERENCES pgduet.migration ON DELETE CASCADE,
    relation     text NOT NULL,
    part         integer NOT NULL,
    next_key     text,                         -- null: from the first one
    PRIMARY KEY (migration_id, relation, part)
);

CREATE TABLE IF NOT EXISTS pgduet.route (
    migration     text PRIMARY KEY,
    database      text NOT NULL,
    old_version   text NOT NULL,
    new_version   text NOT NULL,
    schemas       text[] NOT NULL,             -- schemas that have version schemas, such as {public}
    published     boolean NOT NULL DEFAULT false, -- new clients may use the new version's schema
    authority     text NOT NULL DEFAULT 'old',
    read_percent  smallint NOT NULL DEFAULT 0 CHECK (read_percent BETWEEN 0 AND 100),
    epoch         bigint NOT NULL DEFAULT 1,   -- grows with every change; a router tells which one it follows
    changed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    comparing     boolean NOT NULL DEFAULT true -- routers may read the side that does not answer; false: a version is about to go
);

CREATE TABLE IF NOT EXISTS pgduet.client (
    client_id     text NOT NULL,               -- a router's id, or role/application of a session
    migration     text NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('router', 'session')),
    who           text NOT NULL,
    side          text NOT NULL CHECK (side IN ('old', 'new')), -- which representation it uses
    version       text NOT NULL,
    via           text NOT NULL,
    epoch         bigint,
    lease_s       double precision,
    backend_pid   integer,
    backend_start timestamptz,
    reads_old     bigint NOT NULL DEFAULT 0,
    reads_new     bigint NOT NULL DEFAULT 0,
    errors_old    bigint NOT NULL DEFAULT 0,
    errors_new    bigint NOT NULL DEFAULT 0,
    seconds_old   double precision NOT NULL DEFAULT 0,
    seconds_new   double precision NOT NULL DEFAULT 0,
    sessions      integer NOT NULL DEFAULT 1,  -- how many were seen together last
    first_seen    timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (client_id, migration, side)
);
-- Once: even an ALTER or CREATE INDEX that finds everything there waits for clients' paired writes, and other clients then for it.
DO $once$
BEGIN
    IF to_regclass('pgduet.paired_write') IS NOT NULL THEN
        RETURN;
    END IF;
    -- What came of a router's shadow reads, as totals since it was opened; null: it does none.
    ALTER TABLE pgduet.route ADD COLUMN IF NOT EXISTS comparing boolean NOT NULL DEFAULT true;
    ALTER TABLE pgduet.client
        ADD COLUMN IF NOT EXISTS compared bigint,            -- old against new
        ADD COLUMN IF NOT EXISTS mismatches bigint,
        ADD COLUMN IF NOT EXISTS calibrated bigint,          -- old against old
        ADD COLUMN IF NOT EXISTS noise bigint,               -- of these, how many differed
        ADD COLUMN IF NOT EXISTS failed_old bigint,
        ADD COLUMN IF NOT EXISTS failed_new bigint,
        ADD COLUMN IF NOT EXISTS timeouts bigint,
        ADD COLUMN IF NOT EXISTS dropped bigint,
        ADD COLUMN IF NOT EXISTS broken bigint,
        ADD COLUMN IF NOT EXISTS unwritten bigint,
        ADD COLUMN IF NOT EXISTS shadow_seconds_old double precision,
        ADD COLUMN IF NOT EXISTS shadow_seconds_new double precision,
        ADD COLUMN IF NOT EXISTS latency jsonb;              -- sketches: buckets and counts, by whose reads

    -- The newest mismatches of shadow reads, 200 of each migration. Keys are hashed unless the service says otherwise.
    CREATE TABLE IF NOT EXISTS pgduet.shadow_mismatch (
        id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        migration  text NOT NULL,
        who        text NOT NULL,
        read       text NOT NULL,                  -- which of the service's reads, as it calls it
        key        text NOT NULL,
        place      text NOT NULL,                  -- the field where the answers part
        kind       text NOT NULL,                  -- value | type | length | missing | extra | custom
        shown      text,                           -- what the service shows of both answers: nothing unless it was told to
        answered   text NOT NULL,                  -- which side the caller got
        seen_at    timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX IF NOT EXISTS shadow_mismatch_of ON pgduet.shadow_mismatch (migration, id);

    -- Paired writes that were made: a row comes in the transaction of the writes, so that a retry finds it. Kept until `keep_until`.
    CREATE TABLE IF NOT EXISTS pgduet.paired_write (
        migration  text NOT NULL,
        claim      bytea NOT NULL,                 -- a hash of the row's key and the idempotency key
        keep_until timestamptz NOT NULL,
        PRIMARY KEY (migration, claim)
    );
    CREATE INDEX IF NOT EXISTS paired_write_age ON pgduet.paired_write (keep_until);
END $once$;

-- Backends that the census has seen at a version's views, while they live: what a session has prepared, no other session can see.
CREATE TABLE IF NOT EXISTS pgduet.seen_session (
    migration     text NOT NULL,
    pid           integer NOT NULL,
    side          text NOT NULL CHECK (side IN ('old', 'new')),
    backend_start timestamptz,                 -- null: the worker's role may not see it
    role          text NOT NULL,
    version       text NOT NULL,
    via           text NOT NULL,
    who           text NOT NULL,
    last_seen     timestamptz NOT NULL,
    PRIMARY KEY (migration, pid, side)
);

-- How often statements that name the old version had been run at the last look, by pg_stat_statements.
CREATE TABLE IF NOT EXISTS pgduet.seen_statement (
    migration text NOT NULL,
    userid    oid NOT NULL,
    queryid   bigint NOT NULL,                 -- 0: there was a look
    calls     bigint NOT NULL,
    PRIMARY KEY (migration, userid, queryid)
);

CREATE TABLE IF NOT EXISTS pgduet.drift (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration_id bigint NOT NULL,
    relation     text NOT NULL,
    key          jsonb NOT NULL,
    kind         text NOT NULL,                -- unmapped | unmappable | mismatch | constraint | missing | extra
    detail       text NOT NULL,
    seen_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at  timestamptz
);

-- How far a comparison of a table with its shadow has come, a row for each part of the keys.
CREATE TABLE IF NOT EXISTS pgduet.comparison (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration_id bigint NOT NULL,
    source       text NOT NULL,                -- quoted names with schema
    shadow       text NOT NULL,
    part         integer NOT NULL,
    shape        text NOT NULL,                -- a hash of what is compared: another one begins anew
    request        text NOT NULL DEFAULT '',     -- who asked for it: a later try of the same goes on
    before       bigint NOT NULL DEFAULT 0,    -- rows that differed before a repair, where it looks what came of that
    low          jsonb,                        -- keys as arrays of texts, `low` exclusive, or slices; null: without end
    high         jsonb,
    reached      jsonb,                        -- up to which key both sides were compared
    rows         bigint NOT NULL DEFAULT 0,
    shadow_rows  bigint NOT NULL DEFAULT 0,
    mismatches   bigint NOT NULL DEFAULT 0,    -- as first seen; confirmed ones are in pgduet.suspect
    missing      bigint NOT NULL DEFAULT 0,
    extra        bigint NOT NULL DEFAULT 0,
    unmapped     bigint NOT NULL DEFAULT 0,
    named        bigint NOT NULL DEFAULT 0,
    chunks       bigint NOT NULL DEFAULT 0,
    began_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    UNIQUE (migration_id, source, shadow, part)
);

CREATE TABLE IF NOT EXISTS pgduet.suspect (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    comparison_id bigint NOT NULL REFERENCES pgduet.comparison ON DELETE CASCADE,
    kind          text NOT NULL,               -- mismatch | missing | extra | unmapped
    key           jsonb NOT NULL,              -- of the source, or where only the shadow has the row, of the shadow
    seen          text NOT NULL,               -- the versions of the two rows
    seen_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    looks         integer NOT NULL DEFAULT 1,
    confirmed_at  timestamptz
);

-- A shadow whose table was emptied while the shadow could not be: what it has too much is taken from it later.
CREATE TABLE IF NOT EXISTS pgduet.emptied (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation text NOT NULL,                    -- the shadow's quoted name with schema
    seen_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS pgduet_archive.value (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration  text NOT NULL,
    attempt    integer NOT NULL,
    relation   text NOT NULL,
    key        jsonb NOT NULL,
    side       text NOT NULL,                  -- new: saved by a rollback; old: saved by contract
    mapping    smallint NOT NULL,              -- the operation's position in the plan; -1 less it for columns that only a shadow has
    kept       jsonb NOT NULL,                 -- the values that the other representation cannot give back, as text
    beside     jsonb NOT NULL,                 -- what the other representation held at that moment, as text
    saved_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    restored_at timestamptz
);

-- Once, each: even an index or a column that is there already is looked for under a lock that waits for who writes.
DO $once$
BEGIN
    IF to_regclass('pgduet.migration_one_live') IS NULL THEN
        CREATE UNIQUE INDEX migration_one_live ON pgduet.migration (name) WHERE ended_at IS NULL;
    END IF;
    IF to_regclass('pgduet.drift_open') IS NULL THEN
        CREATE INDEX drift_open ON pgduet.drift (migration_id, relation, md5(key::text)) WHERE resolved_at IS NULL;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pgduet.comparison'::regclass AND attname = 'request') THEN
        ALTER TABLE pgduet.comparison ADD COLUMN request text NOT NULL DEFAULT '', ADD COLUMN before bigint NOT NULL DEFAULT 0;
    END IF;
    IF to_regclass('pgduet.suspect_open') IS NULL THEN
        CREATE INDEX suspect_open ON pgduet.suspect (comparison_id, seen_at, id);
    END IF;
    IF to_regclass('pgduet_archive.value_of') IS NULL THEN
        CREATE INDEX value_of ON pgduet_archive.value (migration, relation, mapping, id) WHERE restored_at IS NULL;
    END IF;
END $once$;

-- Routers run with their service's own role: they may read routes, and report through one function.
GRANT USAGE ON SCHEMA pgduet, pgduet_views TO PUBLIC;
GRANT SELECT ON pgduet.route TO PUBLIC;

-- A function's body that is checked when it is made again locks what it writes to, for the rest of the transaction.
SELECT set_config('check_function_bodies', 'off', true);

CREATE OR REPLACE FUNCTION pgduet.report_client(
    p_client_id text, p_migration text, p_who text, p_side text, p_version text, p_epoch bigint, p_lease_s double precision,
    p_reads_old bigint, p_reads_new bigint, p_errors_old bigint, p_errors_new bigint,
    p_seconds_old double precision, p_seconds_new double precision
) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    -- A router is on one side at a time: what it said of the other side is withdrawn.
    DELETE FROM pgduet.client
     WHERE client_id = p_client_id AND migration = p_migration AND kind = 'router' AND side <> p_side;
    INSERT INTO pgduet.client AS c (client_id, migration, kind, who, side, version, via, epoch, lease_s, backend_pid,
        backend_start, reads_old, reads_new, errors_old, errors_new, seconds_old, seconds_new)
    SELECT p_client_id, p_migration, 'router', p_who, p_side, p_version, 'router', p_epoch,
           least(greatest(p_lease_s, 0), 604800), -- any role may report, and the census reckons with it
           pg_backend_pid(),
           (SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid())),
           p_reads_old, p_reads_new, p_errors_old, p_errors_new, p_seconds_old, p_seconds_new
      FROM pgduet.route r WHERE r.migration = p_migration
    ON CONFLICT (client_id, migration, side) DO UPDATE
       SET who = excluded.who, version = excluded.version, epoch = excluded.epoch, lease_s = excluded.lease_s,
           backend_pid = excluded.backend_pid, backend_start = excluded.backend_start,
           reads_old = excluded.reads_old, reads_new = excluded.reads_new,
           errors_old = excluded.errors_old, errors_new = excluded.errors_new,
           seconds_old = excluded.seconds_old, seconds_new = excluded.seconds_new, last_seen = clock_timestamp()
     WHERE c.kind = 'router';
$$;

-- The same for a router with shadow reads. They come as JSON, and are read into columns here: what does not fit fails at who sent it.
CREATE OR REPLACE FUNCTION pgduet.report_client(
    p_client_id text, p_migration text, p_who text, p_side text, p_version text, p_epoch bigint, p_lease_s double precision,
    p_reads_old bigint, p_reads_new bigint, p_errors_old bigint, p_errors_new bigint,
    p_seconds_old double precision, p_seconds_new double precision, p_compared jsonb
) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT pgduet.report_client(p_client_id, p_migration, p_who, p_side, p_version, p_epoch, p_lease_s, p_reads_old,
        p_reads_new, p_errors_old, p_errors_new, p_seconds_old, p_seconds_new);
    UPDATE pgduet.client c
       SET compared = r.compared, mismatches = r.mismatches, calibrated = r.calibrated, noise = r.noise,
           failed_old = r.failed_old, failed_new = r.failed_new, timeouts = r.timeouts, dropped = r.dropped, broken = r.broken,
           unwritten = r.unwritten, shadow_seconds_old = r.seconds_old, shadow_seconds_new = r.seconds_new,
           latency = CASE WHEN length(r.latency::text) <= 65536 THEN r.latency END
      FROM jsonb_to_record(p_compared) AS r (compared bigint, mismatches bigint, calibrated bigint, noise bigint,
           failed_old bigint, failed_new bigint, timeouts bigint, dropped bigint, broken bigint, unwritten bigint,
           seconds_old double precision, seconds_new double precision, latency jsonb)
     WHERE c.client_id = p_client_id AND c.migration = p_migration AND c.side = p_side AND c.kind = 'router';
    INSERT INTO pgduet.shadow_mismatch (migration, who, read, key, place, kind, shown, answered)
    SELECT r.migration, left(p_who, 200), left(coalesce(s.read, ''), 200), left(coalesce(s.key, ''), 200),
           left(coalesce(s.place, ''), 200), left(coalesce(s.kind, ''), 20), left(s.shown, 2000), left(coalesce(s.answered, ''), 3)
      FROM pgduet.route r,
           jsonb_to_recordset(p_compared -> 'samples') AS s (read text, key text, place text, kind text, shown text, answered text)
     WHERE r.migration = p_migration LIMIT 50;
    DELETE FROM pgduet.shadow_mismatch WHERE id = ANY (ARRAY(
        SELECT o.id FROM pgduet.shadow_mismatch o
         WHERE o.migration = p_migration AND jsonb_array_length(p_compared -> 'samples') > 0
           AND o.id <= (SELECT m.id FROM pgduet.shadow_mismatch m WHERE m.migration = p_migration ORDER BY m.id DESC OFFSET 200 LIMIT 1)
           FOR UPDATE SKIP LOCKED));
$$;

-- Called in the transaction of a paired write: tells whether this is the first time. A race waits here for the other's end.
CREATE OR REPLACE FUNCTION pgduet.write_once(p_migration text, p_claim bytea, p_keep_s double precision)
RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH claimed AS (
        INSERT INTO pgduet.paired_write (migration, claim, keep_until)
        SELECT p_migration, p_claim, clock_timestamp() + make_interval(secs => least(greatest(p_keep_s, 0), 30 * 86400))
         WHERE length(p_claim) = 32 AND length(p_migration) <= 200
        ON CONFLICT (migration, claim) DO NOTHING
        RETURNING 1
    ) SELECT p_claim IS NULL OR EXISTS (SELECT FROM claimed);
$$;

-- Takes a part of the paired writes that were kept for long enough; by routers, off their callers' path.
CREATE OR REPLACE FUNCTION pgduet.forget_paired_writes() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM pgduet.paired_write WHERE ctid = ANY (ARRAY(
        SELECT o.ctid FROM pgduet.paired_write o WHERE o.keep_until < clock_timestamp() ORDER BY o.keep_until LIMIT 1000
           FOR UPDATE SKIP LOCKED));
$$;

-- Called by sync triggers as the writing client: one open note per row is enough, however often it is written.
CREATE OR REPLACE FUNCTION pgduet.note_drift(p_migration_id bigint, p_relation text, p_key jsonb, p_kind text, p_detail text)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO pgduet.drift (migration_id, relation, key, kind, detail)
    SELECT p_migration_id, p_relation, p_key, p_kind, p_detail
     WHERE NOT EXISTS (SELECT FROM pgduet.drift d
                        WHERE d.migration_id = p_migration_id AND d.relation = p_relation AND d.key = p_key
                          AND md5(d.key::text) = md5(p_key::text) AND d.resolved_at IS NULL);
$$;
