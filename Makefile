# Everything one does here, a word each. The longer recipes are in config/run.sh.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test bench lint fmt sqlx-metadata sqlx-check deny
# Cargo uses every core by itself, and two of it would wait for each other's lock.
.NOTPARALLEL:

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Find or start the servers, play the example day, go on working until Ctrl-C
	@config/run.sh run

test: ## Every test, against servers that are found or started
	@urls=$$(config/servers.sh); eval "$$urls"; \
	if cargo nextest --version &>/dev/null; then cargo nextest run; else cargo test; fi

bench: ## How fast, how soon and how quiet the relay is, on servers that are found or started
	@urls=$$(config/servers.sh); eval "$$urls"; cargo bench --bench relay

lint: ## Formatting, SQL metadata, clippy; a warning is an error
	cargo fmt --check
	@config/run.sh sqlx-check
	cargo clippy --all-targets -- -D warnings

fmt: ## Format the code
	cargo fmt

sqlx-metadata: ## Describe every query again, into .sqlx, from the migrations
	@config/run.sh sqlx-metadata

sqlx-check: ## Does .sqlx still match the queries and the migrations?
	@config/run.sh sqlx-check

deny: ## Known vulnerabilities, licences, banned crates, sources
	@cargo deny --version &>/dev/null || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny check
