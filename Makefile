# `make` or `make help` lists the targets. As root, each target installs the tools that it needs;
# otherwise it prints the one command that installs them.

CARGO ?= cargo
ARGS ?=

# The pinned Claude Code; the last line of the file is the default version.
CLAUDE_VERSION := $(shell tail -n 1 scripts/claude-versions)
CLAUDE_DIR := $(CURDIR)/.claude-bin/$(CLAUDE_VERSION)

# Programs that run from here connect to loopback only, never to a real metadata server: see
# CONTRIBUTING.md.
export SPOTKEEP_LOOPBACK_ONLY := 1

.DEFAULT_GOAL := help
.PHONY: help drill vm-drill soak fuzz mutants test test-busy claude lint docs bench deb install

help: ## Print this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | \
	    while IFS='|' read -r target text; do printf '%-14s %s\n' "$$target" "$$text"; done

# With the dev profile: it builds faster, and a drill mostly waits for processes and disks. A power
# cut needs the tools of the tests. A claude in PATH is preferred to the pinned one; with neither,
# the drill uses its fake and prints that.
drill: ## Build, and simulate a preemption of three agents in a sandbox (ARGS="--kind kill" ...)
	@scripts/need $(if $(findstring power-cut,$(ARGS)),test,drill)
	@$(CARGO) build --quiet --locked
	@command -v claude >/dev/null || scripts/fetch-claude || \
	    echo 'Claude Code could not be fetched: the drill uses its fake.' >&2
	@PATH="$$PATH:$(CLAUDE_DIR)" target/debug/spotkeep drill $(ARGS)

# If make, Cargo or the test is killed, all processes that it had started are killed too: each has
# the kernel kill it with its parent. scripts/contain does that for the processes of the test.
vm-drill: ## Cut the power of a whole virtual machine, with and without a notice (as root; CUTS=20)
	@scripts/need vm
	@scripts/vm-image
	@$(CARGO) build --quiet --locked --release
	@host=$$($(CARGO) -vV | sed -n 's/^host: //p') && \
	    export SPOTKEEP_CI=1 SPOTKEEP_VM_PROGRAM=$(CURDIR)/target/release/spotkeep && \
	    exec setpriv --pdeathsig KILL $(CARGO) test \
	    --config "target.$$host.runner = 'setpriv --pdeathsig KILL $(wildcard scripts/contain)'" \
	    --locked --test it vm::a_vm -- --nocapture --test-threads=1

# Random preemptions of a fleet that writes all the time, counted by a checker that shares no code
# with spotkeep. To repeat a run, use the seed that it prints: make soak ARGS="--seed 7".
N ?= 100
soak: ## Preempt a fleet N times at random moments, and count what is lost (as root; N=500)
	@scripts/need test
	@$(CARGO) build --quiet --locked
	@scripts/soak/run -n $(N) $(ARGS)

# Fuzzes the parsers of files of other programs. Every `make test` runs the seeds and former
# crashes.
SECONDS ?= 60
fuzz: ## Fuzz each parser of untrusted input for SECONDS=60 (ARGS="transcript config": only these)
	@scripts/need fuzz
	@scripts/fuzz $(SECONDS) $(ARGS)

# Mutants share one build directory, without debug information. proptest neither shrinks nor records
# the failing input of a mutant. To run a part:
# ARGS="--file crates/state/src/id.rs", ARGS="--shard 0/8", ARGS="--in-diff CHANGES.diff".
mutants: ## Mutate supervisor and state, and list undetected mutants (hours; ARGS="--shard 0/8")
	@scripts/need mutants
	@CARGO_PROFILE_DEV_DEBUG=0 PROPTEST_DISABLE_FAILURE_PERSISTENCE=1 PROPTEST_MAX_SHRINK_TIME=1 \
	    $(CARGO) mutants --workspace --output target --cap-lints=true $(ARGS)

# Duration of all tests, as last measured: on two cores, as root, with all tiers.
TEST_TIME := some 22 minutes (2026-11-29, two at a time)

# Documentation tests run first, so that the last lines are the summary of all others.
test: ## Run all tests that this machine can run, and list the skipped ones
	@scripts/need test
	@[ "$$(id -u)" -ne 0 ] || scripts/boot-root >/dev/null || true
	@scripts/old-program >/dev/null || true
	@scripts/tiers
	@echo 'All tests, once they are built, take on two cores: $(TEST_TIME).'
	@$(CARGO) test --quiet --locked --doc
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    scripts/run-tests $(CARGO) nextest run --locked $(ARGS); \
	else \
	    $(CARGO) test --locked --lib --bins --tests $(ARGS); \
	fi

# The test run is a separate command, so that it ends with make.
LOAD ?= 40
test-busy: ## Run all tests beside forty busy loops (hours; ARGS=gcp_: only these)
	@$(CARGO) test --quiet --locked --no-run
	@scripts/busy $(LOAD) $(MAKE) --no-print-directory test

claude: ## Fetch the pinned Claude Code from npm into .claude-bin/
	@scripts/fetch-claude

lint: ## Check words, format, lints, documentation links, and licences if cargo-deny is installed
	@scripts/need lint
	scripts/words
	scripts/words --width
	scripts/words --subjects
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --quiet --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --quiet --locked --no-deps --lib
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --locked check licenses bans sources; \
	else \
	    echo 'skipped: licences, bans and sources (cargo install cargo-deny --locked)' >&2; \
	fi

docs: ## Generate docs/commands.md from the program
	@scripts/need build
	@SPOTKEEP_UPDATE_DOCS=1 \
	    $(CARGO) test --quiet --locked --lib docs_commands_md_is_up_to_date >/dev/null

bench: ## Print the table of figures: medians, and ratios over interleaved pairs
	@scripts/need test
	@command -v claude >/dev/null || scripts/fetch-claude || \
	    echo 'Claude Code could not be fetched: the fake is used.' >&2
	@$(CARGO) bench --quiet --locked --bench figures -- $(ARGS)

deb: ## Build a package for Debian and its derivatives, into target/
	@scripts/need deb
	@$(CARGO) build --quiet --locked --release
	@scripts/deb $(or $(CARGO_TARGET_DIR),target)/release/spotkeep $(or $(CARGO_TARGET_DIR),target)

install: ## Install spotkeep into Cargo's bin directory
	@scripts/need build
	@$(CARGO) install --locked --path .
