# Everything one does here, a word each. The longer recipes are in config/run.sh.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test chaos soak bench bench-relay lint fmt sqlx-metadata sqlx-check deny
# Cargo uses every core by itself, and two of it would wait for each other's lock.
.NOTPARALLEL:

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Find or start the servers, play the example day, go on working until Ctrl-C
	@config/run.sh run

test: ## Every test, against servers that are found or started
	@urls=$$(config/servers.sh); eval "$$urls"; \
	if cargo nextest --version &>/dev/null; then cargo nextest run; else cargo test; fi

chaos: ## Chaos tests on private servers: every fault once, then random ones
	@cargo test --features chaos --test chaos # RETRIES=1 repeats an aborted scenario, never one with a violation

soak: ## The two random soaks alone: make soak DURATION=1h for each, or KILLS=1000 COMMANDS=100000; SEED=1
	@COMMANDS="$(COMMANDS)" KILLS="$(KILLS)" DURATION="$(DURATION)" SEED="$(SEED)" \
		cargo test --features chaos --test chaos -- soak

bench: ## How fast, how soon and at what cost, end to end: make bench PARTS="a b" ROUNDS=3 COMMANDS=50000
	@urls=$$(config/servers.sh); eval "$$urls"; \
		ROUNDS="$(ROUNDS)" COMMANDS="$(COMMANDS)" cargo bench --bench pipeline -- $(PARTS)

bench-relay: ## How fast, how soon and how quiet the relay alone is
	@urls=$$(config/servers.sh); eval "$$urls"; cargo bench --bench relay

lint: ## Formatting, SQL metadata, clippy; a warning is an error
	cargo fmt --check
	@config/run.sh sqlx-check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --features chaos -- -D warnings

fmt: ## Format the code
	cargo fmt

sqlx-metadata: ## Describe every query again, into .sqlx, from the migrations
	@config/run.sh sqlx-metadata

sqlx-check: ## Does .sqlx still match the queries and the migrations?
	@config/run.sh sqlx-check

deny: ## Known vulnerabilities, licences, banned crates, sources
	@cargo deny --version &>/dev/null || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny check
