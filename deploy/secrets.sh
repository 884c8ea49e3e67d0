#!/bin/sh
# Makes the passwords of a deployment on one machine, once. Nobody ever types them, and inspecting a container shows none: the
# database reads its own two from files, workers the address. `docker compose down --volumes` forgets them.
set -eu
umask 077

random() {
    head -c 24 /dev/urandom | base64 | tr '+/' '-_'
}

# The address comes last, under its name only when it is whole: where it is, all is done.
[ ! -s "$WORKER_SECRETS/shop.dsn" ] || exit 0

# What a run that was interrupted has left is another user's by now, and can only be removed.
rm -f "$DATABASE_SECRETS/superuser.password" "$DATABASE_SECRETS/worker.password" "$WORKER_SECRETS/shop.dsn.new"

password=$(random)
random >"$DATABASE_SECRETS/superuser.password"
printf '%s\n' "$password" >"$DATABASE_SECRETS/worker.password"
printf 'postgresql://pgduet_worker:%s@%s/shop\n' "$password" "$DATABASE_ADDRESS" >"$WORKER_SECRETS/shop.dsn.new"

chown "$DATABASE_USER" "$DATABASE_SECRETS/superuser.password" "$DATABASE_SECRETS/worker.password"
chown "$WORKER_USER" "$WORKER_SECRETS/shop.dsn.new"
mv "$WORKER_SECRETS/shop.dsn.new" "$WORKER_SECRETS/shop.dsn"
