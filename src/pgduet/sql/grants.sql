-- name: grants
-- What the worker's role needs; put its name for pgduet_worker, and the database's for your_database. The role must also
-- own the tables that it migrates. The statements behind these are to be run as that role: it must own what they create.
GRANT CREATE ON DATABASE your_database TO pgduet_worker;
-- Optional, used where granted: the lag of standbys, quick locks past an autovacuum, mute triggers in a backfill.
-- GRANT pg_monitor TO pgduet_worker;
-- GRANT SET ON PARAMETER deadlock_timeout, session_replication_role TO pgduet_worker;
SET ROLE pgduet_worker;
