# The two that matter: `make demo` and `make test`. Both start from a bare machine: they install what
# is missing, build, make the guest image and run. See `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Where cargo builds, where the guest image is kept, and how the programs of the demo are built.
# QEMU runs as a user of its own, so every folder above the image must let others pass.
CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
REMOTE_DOCKER_CACHE := $(abspath $(or $(REMOTE_DOCKER_CACHE),/var/cache/setup-remote-docker))
PROFILE ?= release
export CARGO_TARGET_DIR REMOTE_DOCKER_CACHE
# Right after rustup was installed no shell has its folder in the path yet, and Debian keeps mke2fs,
# ip and nft where an ordinary user does not look.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

TRIPLE := x86_64-unknown-linux-gnu
AGENT := $(CARGO_TARGET_DIR)/$(TRIPLE)/release/guest-agent
CLI_STATIC := $(CARGO_TARGET_DIR)/$(TRIPLE)/release/setup-remote-docker
BIN := $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
IMAGES := $(REMOTE_DOCKER_CACHE)/images

##@ The two that matter
demo: build image ## from nothing to `docker build` on a leased VM, then take it all away again
	@tests/as-root.sh 'the demo runs virtual machines in a network namespace of their own' \
	    tests/demo/demo.sh '$(BIN)' '$(IMAGES)'

test: ## what CI runs: format, lints, documentation, every test, and a check that nothing is left
	@tests/run.sh

##@ Parts of them
build: packages ## the server and the CLI
	cargo build --locked --profile $(PROFILE) -p remote-dockerd -p setup-remote-docker

agent: packages ## the guest agent, static: in the guest's initramfs there is no C library
	RUSTFLAGS='-C target-feature=+crt-static' \
	    cargo build --locked --release -p guest-agent --target $(TRIPLE)

cli-static: packages ## the CLI as one file that runs on any x86-64 Linux
	RUSTFLAGS='-C target-feature=+crt-static' \
	    cargo build --locked --release -p setup-remote-docker --target $(TRIPLE)
	@cli/check-static.sh '$(CLI_STATIC)'

probe: packages ## what the tests run in a leased machine to attack others, static as well
	RUSTFLAGS='-C target-feature=+crt-static' \
	    cargo build --locked --release -p attack-probe --target $(TRIPLE)

image: agent cache ## the guest image with Docker 26, unless it is up to date
	images/build.sh --agent '$(AGENT)' --out '$(IMAGES)/trixie'

# Beside the folder of the usual image, so that servers on that have the one engine only.
image-sid: agent cache ## the guest image with Docker 28, likewise, in a folder of its own
	images/build.sh --agent '$(AGENT)' --definition images/definitions/sid.image \
	    --cache '$(IMAGES)/.cache' --out '$(REMOTE_DOCKER_CACHE)/images-sid/sid'

# In a folder of its own, too: it is larger, and nobody gets it without asking.
image-foreign: agent cache ## the guest image that runs programs for other processors, likewise
	images/build.sh --agent '$(AGENT)' --definition images/definitions/trixie-foreign.image \
	    --cache '$(IMAGES)/.cache' --out '$(REMOTE_DOCKER_CACHE)/images-foreign/trixie-foreign'

lint: packages ## format, clippy, shellcheck, and cargo-deny where it is installed
	@tests/run.sh lint

docs: packages ## the sources' own documentation
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' cargo doc --locked --workspace --no-deps --all-features --document-private-items

# The parts are in docs/performance.md. Given as KEY=VALUE: ONLY=cold,warm (these parts), UPDATE=1 (write the tables
# of docs/performance.md), and BENCH_FLAGS='--leases 10 …' (how much of each; see its --help).
bench: build image cli-static ## every benchmark (ONLY=cold,warm for some of them, UPDATE=1 to write docs/performance.md)
	cargo build --locked --profile $(PROFILE) -p e2e --bin bench
	@tests/as-root.sh 'the benchmarks run virtual machines' \
	    '$(BIN)/bench' --images '$(IMAGES)' --cli '$(CLI_STATIC)' --out '$(CARGO_TARGET_DIR)/bench' \
	    $(if $(ONLY),--only '$(ONLY)') $(if $(UPDATE),--update docs/performance.md) $(BENCH_FLAGS)

soak: build image ## many leases, one after the other, and a look at what stays (CYCLES=200)
	cargo build --locked --profile $(PROFILE) -p e2e --bin soak
	@tests/as-root.sh 'the soak test runs virtual machines' \
	    '$(BIN)/soak' --images '$(IMAGES)' --cycles $(or $(CYCLES),200)

test-foreign: build image-foreign ## a program for another processor on a machine of that image
	cargo build --locked --profile $(PROFILE) -p e2e --bin foreign
	@tests/as-root.sh 'the test runs a virtual machine' \
	    '$(BIN)/foreign' --images '$(REMOTE_DOCKER_CACHE)/images-foreign'

fuzz: packages ## inputs without end for what reads what others write (INPUTS=1000000 for each, TARGETS=all)
	RUSTC_WORKSPACE_WRAPPER='$(abspath tests/fuzz/with-branches.sh)' \
	    cargo run --locked --profile fuzz --workspace --all-features --bin fuzz -- --inputs $(or $(INPUTS),1000000) $(TARGETS)

packages: ## what the host lacks, from its distribution
	@server/host/install-packages.sh

clean: ## everything that was built, the image and the demo's template included
	cargo clean
	@if [ -e '$(REMOTE_DOCKER_CACHE)' ]; then \
	    tests/as-root.sh 'removing $(REMOTE_DOCKER_CACHE)' rm -rf -- '$(REMOTE_DOCKER_CACHE)'; fi

cache:
	@mkdir -p '$(IMAGES)' 2>/dev/null && test -w '$(IMAGES)' || \
	    tests/as-root.sh 'making the cache folder $(REMOTE_DOCKER_CACHE)' \
	        install -d -m 0755 -o "$$(id -u)" -g "$$(id -g)" '$(REMOTE_DOCKER_CACHE)' '$(IMAGES)'

where: # prints the folder of the programs, for scripts
	@echo '$(BIN)'

help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	    /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: demo test build agent cli-static probe image image-sid image-foreign lint docs bench soak test-foreign fuzz packages clean cache where help
