#!/usr/bin/env bash
# Starts RabbitMQ with two users, none of them an administrator: the owner declares exchanges and queues, the other one
# only publishes and consumes. Their passwords come from the environment; the broker gets hashes.
set -euo pipefail
umask 077

# The broker's hash: base64 of a salt of four bytes and SHA-256 of salt and password.
bytes() { printf '%b' "$(sed 's/../\\x&/g' <<<"$1")"; }
hash_of() {
    local salt digest
    salt=$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
    digest=$({ bytes "$salt"; printf %s "$1"; } | sha256sum | cut -c1-64)
    bytes "$salt$digest" | base64 -w0
}

definitions=${DEFINITIONS:-/var/lib/rabbitmq/allocation-definitions.json}
cat >"$definitions" <<JSON
{
  "vhosts": [{"name": "/"}],
  "users": [
    {"name": "allocation_topology", "password_hash": "$(hash_of "$RABBITMQ_OWNER_PASSWORD")",
     "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []},
    {"name": "allocation", "password_hash": "$(hash_of "$RABBITMQ_RUNTIME_PASSWORD")",
     "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []}
  ],
  "permissions": [
    {"user": "allocation_topology", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
    {"user": "allocation", "vhost": "/", "configure": "^$",
     "write": "^allocation\\\\.(commands|events|retries)$", "read": "^allocation\\\\."}
  ]
}
JSON
[[ $EUID != 0 ]] || chown rabbitmq: "$definitions"
if [[ ${1:-} == definitions ]]; then cat "$definitions"; exit; fi
printf 'load_definitions = %s\n' "$definitions" >/etc/rabbitmq/conf.d/20-allocation.conf
chmod 644 /etc/rabbitmq/conf.d/20-allocation.conf
unset RABBITMQ_OWNER_PASSWORD RABBITMQ_RUNTIME_PASSWORD
exec docker-entrypoint.sh rabbitmq-server
