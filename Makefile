# All development tasks. The longer recipes are in config/run.sh.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test chaos soak bench bench-relay fuzz mutants lint fmt sqlx-metadata sqlx-check deny sbom
# One cargo process uses all cores; a second one would wait for its lock.
.NOTPARALLEL:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Find or start the servers, process the example day, run until Ctrl-C
	@config/run.sh run

test: ## Run all tests against servers that are found or started
	@urls=$$(config/servers.sh); eval "$$urls"; \
	if cargo nextest --version &>/dev/null; then cargo nextest run; else cargo test; fi

chaos: ## Inject every fault once, then random faults, on separate servers
	@cargo test --features chaos --test chaos # RETRIES=1 repeats an aborted scenario, never a failed check

soak: ## Run the random faults only: DURATION=1h each, or KILLS=1000 COMMANDS=100000; SEED=1
	@COMMANDS="$(COMMANDS)" KILLS="$(KILLS)" DURATION="$(DURATION)" SEED="$(SEED)" \
		cargo test --features chaos --test chaos -- soak

bench: ## Measure throughput, latency and cost end to end: PARTS="a b" ROUNDS=3 COMMANDS=50000
	@urls=$$(config/servers.sh); eval "$$urls"; \
		ROUNDS="$(ROUNDS)" COMMANDS="$(COMMANDS)" cargo bench --bench pipeline -- $(PARTS)

bench-relay: ## Measure the relay alone
	@urls=$$(config/servers.sh); eval "$$urls"; cargo bench --bench relay

fuzz: ## Parse generated inputs: MINUTES=10 for each target; TARGETS="body csv"
	@MINUTES="$(MINUTES)" TARGETS="$(TARGETS)" config/run.sh fuzz

mutants: ## Change domain and service, and see a test fail: FILES="src/domain src/service/decode.rs" TESTS=--lib
	@FILES="$(FILES)" TESTS="$(TESTS)" config/run.sh mutants

lint: ## Check formatting, SQL metadata and clippy; a warning is an error
	cargo fmt --check
	@config/run.sh sqlx-check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --features chaos -- -D warnings

fmt: ## Format the code
	cargo fmt

sqlx-metadata: ## Update .sqlx from the queries and the migrations
	@config/run.sh sqlx-metadata

sqlx-check: ## Check that .sqlx matches the queries and the migrations
	@config/run.sh sqlx-check

sbom: ## Write target/sbom.json: the crates of the program with licences and hashes, as CycloneDX
	@mkdir -p target; config/run.sh sbom > target/sbom.json; echo target/sbom.json

deny: ## Check dependencies: vulnerabilities, licences, bans, sources
	@cargo deny --version &>/dev/null || { echo "cargo-deny is not installed; run: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny check
