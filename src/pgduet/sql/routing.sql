-- name: listen
LISTEN pgduet_route;

-- name: has_routes
SELECT to_regclass('pgduet.route') IS NOT NULL;

-- name: read_routes
SELECT r.migration, r.old_version, r.new_version, r.schemas, r.published, r.authority, r.read_percent, r.epoch
  FROM pgduet.route r;

-- name: report
SELECT pgduet.report_client(
    %(client_id)s::text, %(migration)s::text, %(who)s::text, %(side)s::text, %(version)s::text, %(epoch)s::bigint,
    %(lease_s)s::double precision, %(reads_old)s::bigint, %(reads_new)s::bigint, %(errors_old)s::bigint,
    %(errors_new)s::bigint, %(seconds_old)s::double precision, %(seconds_new)s::double precision);
