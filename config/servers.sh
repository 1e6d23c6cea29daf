#!/usr/bin/env bash
# Finds or starts PostgreSQL and RabbitMQ and prints their URLs:   urls=$(config/servers.sh) && eval "$urls"
#
# Uses, for each server, the first of: DATABASE_URL or AMQP_URL (if set, nothing else is tried); a server on
# this machine; a container from docker-compose.yml; the Debian package, as root. Standard output contains
# only export statements. Exit 1: a named or started server does not answer. Exit 3: no server was found, and
# none can be started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null # no command below may prompt

deadline=90 # seconds; RabbitMQ needs 30 on a small machine, and more at the first start
# The passwords of servers that an earlier call has started.
[[ ! -e .env ]] || { set -a; . ./.env; set +a; }
set_urls() {
    postgres_urls=("postgres://postgres@127.0.0.1:5432/allocation"
        ${POSTGRES_ADMIN_PASSWORD:+"postgres://postgres:$POSTGRES_ADMIN_PASSWORD@127.0.0.1:5432/allocation"}
        ${POSTGRES_RUNTIME_PASSWORD:+"postgres://allocation:$POSTGRES_RUNTIME_PASSWORD@127.0.0.1:5432/allocation"})
    amqp_urls=("amqp://guest:guest@127.0.0.1:5672/%2f" # guest can log in from the same host only: not to a container
        ${RABBITMQ_OWNER_PASSWORD:+"amqp://allocation_topology:$RABBITMQ_OWNER_PASSWORD@127.0.0.1:5672/%2f"})
}
set_urls
database_url=${DATABASE_URL:-} amqp_url=${AMQP_URL:-}

say() { echo "servers: $*" >&2; }
redacted() { sed -E 's#://([^:@/]*):[^@/]*@#://\1:***@#; s#([?&]password=)[^&]*#\1***#' <<<"$1"; }
# A URL and its password apart: a command line can be read by every user of the machine.
without_password() { sed -E 's#^([a-z]+://[^:/@]*):[^@/]*@#\1@#' <<<"$1"; }
password_of() { [[ ! $1 =~ ^[a-z]+://[^:/@]*:([^@/]*)@ ]] || printf %b "${BASH_REMATCH[1]//%/\\x}"; }

# Connects descriptor 9 to the host and port (default: $2) of URL $1. Sets BASH_REMATCH: 2 user, 4 password.
dial() {
    [[ $1 =~ ^[a-z]+://(([^:@/]*)(:([^@/]*))?@)?([^:/?@]+)(:([0-9]+))? ]] &&
        { exec 9<>"/dev/tcp/${BASH_REMATCH[5]}/${BASH_REMATCH[7]:-$2}"; } 2>/dev/null
}

postgres_answers() (
    if type -P psql >/dev/null; then # the database of the URL may not exist yet; postgres always exists
        for url in "$1" "$(sed -E 's#^([a-z]+://[^/?]*)(/[^?]*)?#\1/postgres#' <<<"$1")"; do
            PGPASSWORD=$(password_of "$url") PGCONNECT_TIMEOUT=3 psql --no-psqlrc --no-password --quiet \
                --command 'select 1' "$(without_password "$url")" &>/dev/null && exit
        done
        exit 1
    else # StartupMessage as postgres: AuthenticationOk is R of length 8; a password is not verified
        dial "$1" 5432 && printf '\0\0\0\x17\0\x03\0\0user\0postgres\0\0' >&9 || exit
        IFS= LC_ALL=C read -r -t 3 -d S -u 9 reply && [[ $reply == $'R\x08' || $1 == *:*@* || -n ${DATABASE_URL:-} ]]
    fi
)

# Logs in: an open port does not show that RabbitMQ is running or that the user is accepted.
amqp_answers() (
    [[ $1 != amqps:* ]] || { dial "$1" 5671; exit; } # TLS: only the port is checked
    dial "$1" 5672 || exit
    printf -v user %b "${BASH_REMATCH[2]//%/\\x}"
    printf -v password %b "${BASH_REMATCH[4]//%/\\x}"
    printf -v login '\\x%02x' $((2 + ${#user} + ${#password}))
    printf -v frame '\\x%02x' $((26 + ${#user} + ${#password}))
    # Sends the protocol header and connection.start-ok. The reply to a valid login is connection.tune: 10, 30.
    printf "AMQP\0\0\x09\x01\x01\0\0\0\0\0$frame\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0$login\0%s\0%s\x05en_US\xce" "$user" "$password" >&9
    while IFS= LC_ALL=C read -r -t 5 -d $'\x1e' -u 9 reply; do [[ $reply != *$'\n' ]] || exit 0; done 2>/dev/null
    exit 1
)

# Finds servers on this machine. Succeeds when both URLs are known.
find_local_servers() {
    local url
    for url in "${postgres_urls[@]}"; do [[ -n $database_url ]] || ! postgres_answers "$url" || database_url=$url; done
    for url in "${amqp_urls[@]}"; do [[ -n $amqp_url ]] || ! amqp_answers "$url" || amqp_url=$url; done
    [[ -n $database_url && -n $amqp_url ]]
}

# Passwords for servers that are started here.
use_secrets() {
    config/secrets.sh
    set -a; . ./.env; set +a
    set_urls
}

start_containers() {
    { docker info && docker compose version; } >/dev/null 2>&1 || return
    use_secrets
    local services=()
    [[ -n $database_url ]] || services+=(postgres)
    [[ -n $amqp_url ]] || services+=(rabbitmq)
    say "starting ${services[*]} in Docker"
    docker compose up --detach --wait "${services[@]}" >&2
}

# A package may not start its server: containers have no systemd, and often a policy that prevents it.
start_debian_packages() {
    { ((EUID == 0)) && type -P apt-get >/dev/null; } || return
    use_secrets
    local packages=()
    [[ -n $database_url ]] || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || packages+=(postgresql)
    [[ -n $amqp_url ]] || type -P rabbitmq-server >/dev/null || packages+=(rabbitmq-server)
    if ((${#packages[@]})); then
        say "installing ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        { apt-get -qq update && apt-get -qq install --yes --no-install-recommends "${packages[@]}"; } >&2 || return
    fi
    { [[ -n $database_url ]] || start_postgres; } && { [[ -n $amqp_url ]] || start_rabbitmq; }
}

start_postgres() {
    local version
    version=$(cd /usr/lib/postgresql && printf '%s\n' * | sort -V | tail -n 1)
    [[ -d /etc/postgresql/$version/main ]] || pg_createcluster "$version" main >&2 || return
    dial "${postgres_urls[0]}" 5432 || pg_ctlcluster "$version" main start >&2 || return
    say "PostgreSQL $version is running; creating the role allocation (createdb) if it does not exist"
    (cd / && runuser -u postgres -- psql --no-psqlrc --quiet >&2) <<'SQL'
\getenv password POSTGRES_RUNTIME_PASSWORD
select format('create role allocation login createdb password %L', :'password')
where not exists (select from pg_roles where rolname = 'allocation') \gexec
SQL
}

start_rabbitmq() {
    ! dial "${amqp_urls[0]}" 5672 || return 0
    say "starting RabbitMQ"
    [[ ! -d /run/systemd/system ]] || { systemctl start rabbitmq-server >&2; return; }
    # The node name needs a resolvable host name. The daemon must not keep our output streams open.
    getent hosts "$(hostname -s)" >/dev/null || export RABBITMQ_NODENAME=rabbit@localhost
    rabbitmq-server -detached >/dev/null 2>&1
}

fail() { say "${@:2}"; exit "$1"; }

[[ -z $database_url ]] || postgres_answers "$database_url" || fail 1 "cannot log in to DATABASE_URL ($(redacted "$database_url")); check that the server runs and accepts this user"
[[ -z $amqp_url ]] || amqp_answers "$amqp_url" || fail 1 "cannot log in to AMQP_URL ($(redacted "$amqp_url")); check that the server runs and accepts this user"
if ! find_local_servers; then
    start_containers || start_debian_packages || {
        [[ -n $database_url ]] || say "no PostgreSQL on 127.0.0.1:5432 that accepts the user postgres, or allocation with its password"
        [[ -n $amqp_url ]] || say "no RabbitMQ on 127.0.0.1:5672 that accepts the user guest or allocation"
        fail 3 "set DATABASE_URL and AMQP_URL, or install Docker with Compose, or run this as root on Debian"
    }
    SECONDS=0
    until find_local_servers; do
        ((SECONDS < deadline)) || fail 1 "the started servers did not answer within $deadline s"
        sleep 1
    done
fi
say "PostgreSQL is $(redacted "$database_url"), RabbitMQ is $(redacted "$amqp_url")"
printf 'export %s=%q\n' DATABASE_URL "$database_url" AMQP_URL "$amqp_url"
