#!/usr/bin/env bash
# The longer recipes of the Makefile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

allocation=${CARGO_TARGET_DIR:-target}/release/allocation

say() { echo "$*" >&2; }

# Exports DATABASE_URL and AMQP_URL. Fails with the exit code of config/servers.sh.
find_servers() {
    local urls
    urls=$(config/servers.sh) || return
    eval "$urls"
}

# The first run: schema, every role in one process, the example day, its result, then work until Ctrl-C.
run() {
    local servers=0 code=0 stopping=
    find_servers || servers=$?
    ((servers == 0 || servers == 3)) || exit "$servers"
    [[ -x $allocation ]] || say "build: compiling the release binary, which takes some minutes the first time"
    cargo build --release --quiet
    ((servers == 0)) || { say "Without servers the example day runs in memory."; exec "$allocation" demo; }
    export ALLOCATION__LOG__FILTER=${ALLOCATION__LOG__FILTER:-warn}
    export ALLOCATION__SMTP__URL=${ALLOCATION__SMTP__URL:-file:target/notifications}
    export ALLOCATION__NOTIFICATIONS__DIGEST=${ALLOCATION__NOTIFICATIONS__DIGEST:-0s}
    say "schema: $("$allocation" migrate)"
    "$allocation" topology >/dev/null
    say "roles: worker, relay, archive, notifier and api in one process"
    say "notifications: ${ALLOCATION__SMTP__URL%%://*}"

    # Each child has its own process group: Ctrl-C reaches this script only, which forwards it once. A second Ctrl-C, which
    # means "exit immediately", is then sent by the user.
    set -m
    "$allocation" run &
    worker=$!
    "$allocation" send --file examples/trading-day.jsonl --in-order --follow &
    sender=$!
    set +m
    trap 'stopping=yes; kill -TERM "$sender" "$worker" 2>/dev/null || true' HUP INT TERM

    wait -n || code=$? # until either ends, or a signal arrives
    if ! kill -0 "$worker" 2>/dev/null; then
        kill -TERM "$sender" 2>/dev/null || true
    elif [[ -z $stopping ]]; then
        next_steps "$code"
    fi
    while kill -0 "$worker" 2>/dev/null; do wait "$worker" || true; done # a signal interrupts wait
    wait "$worker"
}

next_steps() {
    local listen
    listen=$("$allocation" config | sed -n 's/^api.listen = "\(.*\)"$/\1/p')
    say ""
    (($1 == 0)) || say "Not every command was handled; run: $allocation dead-letters list"
    say "API: http://$listen   The worker runs until Ctrl-C. Try, in another terminal:"
    say "  curl http://$listen/availability/UNCLE-OSKARS-ROCKER"
    say "  eval \"\$(config/servers.sh)\"; $allocation status"
    say "  eval \"\$(config/servers.sh)\"; $allocation send --follow allocate --orderid my-order --sku NAPPING-SOFA --qty 1"
}

# Runs the SQL on standard input in database $1 of the server. Without psql, uses the one in the container.
run_sql() {
    local psql=(psql)
    if ! type -P psql >/dev/null; then
        type -P docker >/dev/null || { say "psql not found; install the Debian package postgresql-client"; return 1; }
        psql=(docker compose exec -T postgres psql)
    fi
    # The password is not on the command line, which every user of the machine can read.
    local url password=
    url=$(url_of "$1")
    [[ ! $url =~ ^[a-z]+://[^:/@]*:([^@/]*)@ ]] || password=$(printf %b "${BASH_REMATCH[1]//%/\\x}")
    PGPASSWORD=$password "${psql[@]}" --no-psqlrc --quiet --set ON_ERROR_STOP=1 \
        "$(sed -E 's#^([a-z]+://[^:/@]*):[^@/]*@#\1@#' <<<"$url")"
}

url_of() { sed -E "s#^([a-z]+://[^/?]*)(/[^?]*)?#\1/$1#" <<<"$DATABASE_URL"; }

# Checks every query against a newly migrated database. The macros write their metadata to $fresh/.sqlx.
describe_queries() {
    local migration
    fresh=$(mktemp -d) scratch=allocation_sqlx_$$
    find_servers
    trap 'rm -rf "$fresh"; run_sql postgres <<<"drop database if exists $scratch with (force)"' EXIT
    run_sql postgres <<<"create database $scratch"
    for migration in migrations/*.sql; do
        run_sql "$scratch" <"$migration" || { say "$migration failed"; exit 1; }
    done

    mkdir "$fresh/.sqlx"
    touch src/lib.rs # the macros run only if the crate is compiled
    SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$fresh/.sqlx DATABASE_URL=$(url_of "$scratch") cargo check --quiet --all-targets
}

sqlx_metadata() {
    describe_queries
    rm -rf .sqlx
    cp -r "$fresh/.sqlx" .sqlx
}

sqlx_check() {
    describe_queries
    diff --recursive --brief .sqlx "$fresh/.sqlx" >&2 && return
    say "The queries differ from .sqlx. To update it: make sqlx-metadata"
    return 1
}

# Needs a nightly compiler: the sanitizers are not in stable ones.
fuzz() {
    local target
    cargo fuzz --version &>/dev/null || { say "cargo-fuzz is not installed; run: cargo install --locked cargo-fuzz"; exit 1; }
    for target in ${TARGETS:-$(cargo +nightly fuzz list)}; do
        say "fuzzing $target"
        cargo +nightly fuzz run "$target" -- -max_total_time=$((${MINUTES:-10} * 60)) -timeout=10 -rss_limit_mb=2048 \
            -max_len=65536 -print_final_stats=1
    done
}

# Lists what the program is built from, as CycloneDX: the crates of the release build, with licences and the hashes of the
# lock file. The same sources give the same file.
sbom() {
    local target=${1:-x86_64-unknown-linux-gnu}
    cargo tree --locked --edges normal,build --target "$target" --prefix none --format '{p}|{l}' --no-dedupe | sort -u |
        awk -F '|' '
            FILENAME == "Cargo.lock" {
                split($0, part, "\"")
                if (/^name = /) name = part[2]
                if (/^version = /) version = part[2]
                if (/^checksum = /) hashes[name " " version] = part[2]
                next
            }
            {
                split($1, crate, " ")
                version = substr(crate[2], 2)
                if (crate[1] == "allocation") { program = version; next }
                licence = $2 == "" ? "" : sprintf(", \"licenses\": [{\"expression\": \"%s\"}]", $2)
                gsub("/", " OR ", licence)
                hash = hashes[crate[1] " " version]
                if (hash != "") hash = sprintf(", \"hashes\": [{\"alg\": \"SHA-256\", \"content\": \"%s\"}]", hash)
                purl = sprintf("pkg:cargo/%s@%s", crate[1], version)
                rows = rows separator sprintf("    {\"type\": \"library\", \"bom-ref\": \"%s\", \"name\": \"%s\", " \
                    "\"version\": \"%s\", \"purl\": \"%s\"%s%s}", purl, crate[1], version, purl, licence, hash)
                separator = ",\n"
            }
            END {
                printf "{\n  \"bomFormat\": \"CycloneDX\",\n  \"specVersion\": \"1.5\",\n  \"version\": 1,\n"
                printf "  \"metadata\": {\"component\": {\"type\": \"application\", \"name\": \"allocation\", "
                printf "\"version\": \"%s\"}},\n  \"components\": [\n%s\n  ]\n}\n", program, rows
            }' Cargo.lock -
}

# One mutant takes seconds, because only the layers without servers are built, as a package in target/mutants, with their unit
# tests and those of tests/it/service.
mutants() {
    local package=target/mutants names
    cargo mutants --version &>/dev/null || { say "cargo-mutants is not installed; run: cargo install --locked cargo-mutants"; exit 1; }
    rm -rf "$package/src" "$package/tests"
    mkdir -p "$package"/src/{adapters,entrypoints} "$package/tests/it/harness"
    cp -r src/{domain,ports,service,faults} "$package/src"
    cp -r src/adapters/memory "$package/src/adapters"
    cp src/entrypoints/{consumer,outcome_log,partition,prefetch,storage,watchdog}.rs "$package/src/entrypoints"
    cp -r tests/it/service tests/it/service.rs "$package/tests/it"
    cp tests/it/harness/{commands,in_process,wait}.rs "$package/tests/it/harness"
    printf 'pub mod %s;\n' adapters domain entrypoints faults ports service >"$package/src/lib.rs"
    echo 'pub mod memory;' >"$package/src/adapters/mod.rs"
    printf '%s;\n' 'pub mod consumer' 'mod outcome_log' 'mod partition' 'pub mod prefetch' 'pub mod storage' 'pub mod watchdog' >"$package/src/entrypoints/mod.rs"
    printf 'mod harness;\nmod service;\n' >"$package/tests/it/main.rs"
    printf '%s;\n' 'mod commands' 'mod in_process' 'mod wait' 'pub(crate) use commands::*' 'pub(crate) use in_process::*' \
        'pub(crate) use wait::*' >"$package/tests/it/harness.rs"
    names=async-trait,backoff,fastrand,futures-util,humantime,proptest,serde,serde_json,serde_path_to_error,sha2,thiserror,time,tokio,tokio-util,tracing,tracing-subscriber,unicode-properties,uuid
    {
        printf '[package]\nname = "allocation"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n\n[features]\nchaos = []\n'
        awk -v names="$names" 'BEGIN { split(names, list, ","); for (i in list) wanted[list[i]] }
            /^\[/ { section = $0; if (/dependencies/) print "\n" $0 }
            section ~ /dependencies/ && ($1 in wanted)' Cargo.toml
        printf '\n[profile.dev]\ndebug = false\n'
    } >"$package/Cargo.toml"
    cp Cargo.lock "$package"
    if [[ ${TESTS:-} == --lib ]]; then rm -r "$package/tests"; fi # cargo would build them
    local args=() file
    for file in ${FILES:-src/domain src/service}; do
        if [[ $file == *.rs ]]; then args+=(--file "$file"); else args+=(--file "$file/**/*.rs"); fi
    done
    (cd "$package" && cargo mutants --in-place --no-shuffle --timeout 60 --minimum-test-timeout 30 "${args[@]}" ${TESTS:+-- $TESTS})
}

case ${1:-} in
    run) run ;;
    sqlx-metadata) sqlx_metadata ;;
    sqlx-check) sqlx_check ;;
    fuzz) fuzz ;;
    sbom) sbom ;;
    mutants) mutants ;;
    *) say "usage: config/run.sh run | sqlx-metadata | sqlx-check | fuzz | sbom | mutants"; exit 2 ;;
esac
