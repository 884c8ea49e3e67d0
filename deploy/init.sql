-- Runs once, when the cluster is made: the database's owner, and the worker's role with the rights that it needs and may use.
-- shop_owner has no password, so that it can connect only from within the database's container.
\set password `cat "$WORKER_PASSWORD_FILE"`
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
CREATE ROLE shop_owner LOGIN;
CREATE ROLE pgduet_worker LOGIN PASSWORD :'password' IN ROLE shop_owner;
ALTER DATABASE :"DBNAME" OWNER TO shop_owner;
GRANT CREATE ON DATABASE :"DBNAME" TO pgduet_worker;
GRANT pg_monitor TO pgduet_worker;
GRANT SET ON PARAMETER deadlock_timeout, session_replication_role TO pgduet_worker;
