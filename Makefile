# `make` or `make help` says what there is. Each target installs what it lacks when run as root,
# and otherwise prints the one command to run.

CARGO ?= cargo
ARGS ?=

# The pinned Claude Code; the last line of the file is the default version.
CLAUDE_VERSION := $(shell tail -n 1 scripts/claude-versions)
CLAUDE_DIR := $(CURDIR)/.claude-bin/$(CLAUDE_VERSION)

# Whatever runs from here asks no metadata server but its own: see CONTRIBUTING.md.
export SPOTKEEP_LOOPBACK_ONLY := 1

.DEFAULT_GOAL := help
.PHONY: help drill vm-drill soak fuzz mutants test test-busy claude lint docs bench deb install

help: ## Print this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | \
	    while IFS='|' read -r target text; do printf '%-14s %s\n' "$$target" "$$text"; done

# The dev profile: it is built sooner, and a drill waits for processes and disks, not for us. A
# power cut needs the tools that the tests need. A claude in PATH is preferred to the pinned one; with neither, the drill uses its
# fake and says so.
drill: ## Build, and rehearse a preemption of three agents in a sandbox (ARGS="--kind kill" ...)
	@scripts/need $(if $(findstring power-cut,$(ARGS)),test,drill)
	@$(CARGO) build --quiet --locked
	@command -v claude >/dev/null || scripts/fetch-claude || \
	    echo 'Claude Code could not be fetched: the drill uses its fake.' >&2
	@PATH="$$PATH:$(CLAUDE_DIR)" target/debug/spotkeep drill $(ARGS)

# Whatever is killed, make, Cargo or the test, all that it had started is killed with it: each asks
# the kernel to be killed with its parent. What is below the test, scripts/contain takes along.
vm-drill: ## Cut the power of a whole virtual machine, with and without a notice (as root; CUTS=20)
	@scripts/need vm
	@scripts/vm-image
	@$(CARGO) build --quiet --locked --release
	@host=$$($(CARGO) -vV | sed -n 's/^host: //p') && \
	    export SPOTKEEP_CI=1 SPOTKEEP_VM_PROGRAM=$(CURDIR)/target/release/spotkeep && \
	    exec setpriv --pdeathsig KILL $(CARGO) test \
	    --config "target.$$host.runner = 'setpriv --pdeathsig KILL $(wildcard scripts/contain)'" \
	    --locked --test it vm::a_vm -- --nocapture --test-threads=1

# Random preemptions of a fleet that writes without end, counted by a checker that shares nothing with spotkeep. Play one again
# with the seed that it prints: make soak ARGS="--seed 7".
N ?= 100
soak: ## Preempt a fleet N times at random moments, and count what is lost (as root; N=500)
	@scripts/need test
	@$(CARGO) build --quiet --locked
	@scripts/soak/run -n $(N) $(ARGS)

# Readers of what others write, given what nobody would. The seeds and former crashes are run by every `make test`.
SECONDS ?= 60
fuzz: ## Fuzz each reader of foreign bytes for SECONDS=60 (ARGS="transcript config": only these)
	@scripts/need fuzz
	@scripts/fuzz $(SECONDS) $(ARGS)

# Mutants share one build directory, without debug information. proptest neither shrinks what a mutant fails with nor remembers it.
# A part of it: ARGS="--file crates/state/src/id.rs", ARGS="--shard 0/8", ARGS="--in-diff CHANGES.diff".
mutants: ## Break the core and the state in some 700 ways, and list what no test sees (hours; ARGS="--shard 0/8")
	@scripts/need mutants
	@CARGO_PROFILE_DEV_DEBUG=0 PROPTEST_DISABLE_FAILURE_PERSISTENCE=1 PROPTEST_MAX_SHRINK_TIME=1 \
	    $(CARGO) mutants --workspace --output target --cap-lints=true $(ARGS)

# How long all tests take, as measured last: on two cores, as root, with all tiers.
TEST_TIME := some 22 minutes (2026-11-29, two at a time)

# Documentation tests come first, so that the last lines are the summary of all others.
test: ## Run all tests that this machine can run, and say which it cannot
	@scripts/need test
	@[ "$$(id -u)" -ne 0 ] || scripts/boot-root >/dev/null || true
	@scripts/tiers
	@echo 'All tests, once they are built, take on two cores: $(TEST_TIME).'
	@$(CARGO) test --quiet --locked --doc
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    scripts/run-tests $(CARGO) nextest run --locked $(ARGS); \
	else \
	    $(CARGO) test --locked --lib --bins --tests $(ARGS); \
	fi

# The test run is one command of its own, so that it ends with make.
LOAD ?= 40
test-busy: ## Run all tests while forty others want the processors (hours; ARGS=gcp_: only these)
	@$(CARGO) test --quiet --locked --no-run
	@scripts/busy $(LOAD) $(MAKE) --no-print-directory test

claude: ## Fetch the pinned Claude Code from npm into .claude-bin/
	@scripts/fetch-claude

lint: ## Check format, lints, documentation links, and licences where cargo-deny is installed
	@scripts/need build
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --quiet --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --quiet --locked --no-deps --lib
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --locked check licenses bans sources; \
	else \
	    echo 'skipped: licences, bans and sources (cargo install cargo-deny --locked)' >&2; \
	fi

docs: ## Write docs/commands.md anew, from the program itself
	@scripts/need build
	@SPOTKEEP_UPDATE_DOCS=1 $(CARGO) test --quiet --locked --lib the_page_of_commands >/dev/null

bench: ## Print the table of figures: medians, and ratios over interleaved pairs
	@scripts/need test
	@command -v claude >/dev/null || scripts/fetch-claude || \
	    echo 'Claude Code could not be fetched: the fake plays.' >&2
	@$(CARGO) bench --quiet --locked --bench figures -- $(ARGS)

deb: ## Build a package for Debian and its kin, into target/
	@scripts/need deb
	@$(CARGO) build --quiet --locked --release
	@scripts/deb $(or $(CARGO_TARGET_DIR),target)/release/spotkeep $(or $(CARGO_TARGET_DIR),target)

install: ## Install spotkeep into Cargo's bin directory
	@scripts/need build
	@$(CARGO) install --locked --path .
