#!/usr/bin/env bash
# Creates .env with random passwords for docker-compose.yml, or adds those that are missing in it. Git ignores it.
set -euo pipefail
exec 9<"${BASH_SOURCE[0]}"
flock 9 # several may run at the same time
cd "$(dirname "${BASH_SOURCE[0]}")/.."
umask 077
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
missing=()
for name in POSTGRES_ADMIN_PASSWORD POSTGRES_OWNER_PASSWORD POSTGRES_RUNTIME_PASSWORD \
    RABBITMQ_OWNER_PASSWORD RABBITMQ_RUNTIME_PASSWORD API_TOKEN GRAFANA_PASSWORD; do
    [[ -e .env ]] && grep -q "^$name=" .env || missing+=("$name")
done
((${#missing[@]})) || exit 0
new=$(mktemp .env.XXXXXX)
{
    [[ ! -e .env ]] || sed '$a\' .env # with an end of the last line
    for name in "${missing[@]}"; do printf '%s=%s\n' "$name" "$(random)"; done
} >"$new"
mv "$new" .env
echo "wrote random passwords to .env: ${missing[*]}" >&2
