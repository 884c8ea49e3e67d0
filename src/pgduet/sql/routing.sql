-- name: listen
LISTEN pgduet_route;

-- name: has_routes
-- And whether the database was set up by a release that takes what came of shadow reads.
SELECT to_regclass('pgduet.route') IS NOT NULL, to_regclass('pgduet.paired_write') IS NOT NULL;

-- name: read_routes
SELECT r.migration, r.old_version, r.new_version, r.schemas, r.published, r.authority, r.read_percent, r.epoch,
       coalesce((to_jsonb(r) ->> 'comparing')::boolean, false) -- a database of an earlier release has no such column
  FROM pgduet.route r;

-- name: report
SELECT pgduet.report_client(
    %(client_id)s::text, %(migration)s::text, %(who)s::text, %(side)s::text, %(version)s::text, %(epoch)s::bigint,
    %(lease_s)s::double precision, %(reads_old)s::bigint, %(reads_new)s::bigint, %(errors_old)s::bigint,
    %(errors_new)s::bigint, %(seconds_old)s::double precision, %(seconds_new)s::double precision);

-- name: report_compared
SELECT pgduet.report_client(
    %(client_id)s::text, %(migration)s::text, %(who)s::text, %(side)s::text, %(version)s::text, %(epoch)s::bigint,
    %(lease_s)s::double precision, %(reads_old)s::bigint, %(reads_new)s::bigint, %(errors_old)s::bigint,
    %(errors_new)s::bigint, %(seconds_old)s::double precision, %(seconds_new)s::double precision, %(compared)s::jsonb);

-- name: forget_paired_writes
SELECT pgduet.forget_paired_writes();

-- name: write_once
-- With the route as this transaction sees it: a router that missed a change writes right all the same.
SELECT pgduet.write_once(%(migration)s::text, %(claim)s::bytea, %(keep_s)s::double precision), r.migration, r.old_version,
       r.new_version, r.schemas, r.published, r.authority, r.read_percent, r.epoch, r.comparing
  FROM (VALUES (1)) one LEFT JOIN pgduet.route r ON r.migration = %(migration)s::text;
