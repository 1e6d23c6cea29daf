#!/usr/bin/env bash
# Creates .env with random passwords for docker-compose.yml, unless it exists. Git ignores it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ ! -e .env ]] || exit 0
umask 077
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
new=$(mktemp .env.XXXXXX)
for name in POSTGRES_ADMIN_PASSWORD POSTGRES_OWNER_PASSWORD POSTGRES_RUNTIME_PASSWORD \
    RABBITMQ_OWNER_PASSWORD RABBITMQ_RUNTIME_PASSWORD API_TOKEN; do
    printf '%s=%s\n' "$name" "$(random)"
done >"$new"
mv -n "$new" .env # of two that run at the same time, one counts
rm -f "$new"
echo "created .env with random passwords" >&2
