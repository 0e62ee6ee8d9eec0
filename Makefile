# Ottla's way in. `make run` needs a Debian machine with Rust and root (or sudo) and nothing else; see README.md.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# What is expensive to make and independent of the clone: RocksDB's archive, the clients' virtual environment.
export OTTLA_CACHE ?= $(HOME)/.cache/ottla

# A fresh clone in CI compiles into the cache, so that the next run starts warm.
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(OTTLA_CACHE)/target
endif
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
export OTTLA_BIN_DIR := $(TARGET)/release

# RocksDB takes two minutes of two cores. Every profile and every clone links the one archive in the cache.
ROCKSDB_VERSION := $(shell awk '/^name = "librocksdb-sys"/ { getline; gsub(/version = |"/, ""); print }' Cargo.lock)
export ROCKSDB_LIB_DIR := $(OTTLA_CACHE)/rocksdb-$(ROCKSDB_VERSION)
export ROCKSDB_STATIC := 1

DATA ?= data
SEEDS ?= 1000
FROM ?= 0
# How long `make fuzz` lasts, at least, for each of its tests; how many seeds `make soak` takes.
FUZZ_SECS ?= 60
SOAK_SEEDS ?= 20000
# Tests add a line each when they are skipped; `make test` prints them at its end.
export OTTLA_SKIPPED := $(TARGET)/skipped-tests
OTTLA := $(OTTLA_BIN_DIR)/ottla
# Kafka's names for the same binary.
TOOLS := kafka-topics kafka-console-producer kafka-console-consumer kafka-consumer-groups kafka-get-offsets kafka-delete-records \
  kafka-configs kafka-log-dirs kafka-broker-api-versions kafka-cluster

.PHONY: help
help:
	@echo "make run          build, start three coordinators and three brokers here, show what they do"
	@echo "make stop         end them (their data stays in $(DATA)/)"
	@echo "make test         everything that can be tested on this machine"
	@echo "make build        release binaries in $(OTTLA_BIN_DIR)"
	@echo "make lint         formatting and clippy"
	@echo "make sim SEEDS=n  n seeds of the simulation, from FROM=n; SEED=n replays one, step by step"
	@echo "make fuzz         hostile bytes and requests for FUZZ_SECS=n seconds a test"
	@echo "make soak         long: SOAK_SEEDS=n seeds, seeded tests with ten times their runs, faults under load"
	@echo "make mutants      which changes of the cores no test notices (docs/mutants.md); ONLY=regex picks some"
	@echo "make bench        every layer beside what this machine can do"
	@echo "make up, down     the same cluster in containers"

.PHONY: prepare
prepare:
	@deploy/prepare.sh build

# The broker does not need RocksDB: on a fresh machine it is built while the archive is. The same packages are named both
# times, so that cargo chooses the same features of their dependencies; --bin says which of them are built.
PRODUCT := -p ottla-cli -p ottla-coordinator -p ottla-broker

.PHONY: build
build:
	@deploy/prepare.sh toolchain
	@if [ -f "$(ROCKSDB_LIB_DIR)/librocksdb.a" ]; then exit; fi; \
	  deploy/prepare.sh rocksdb & archive=$$!; \
	  result=0; cargo build --release --locked $(PRODUCT) --bin ottla-broker || result=$$?; \
	  wait $$archive; exit $$result
	cargo build --release --locked $(PRODUCT)
	@for tool in $(TOOLS); do ln -sf ottla "$(OTTLA_BIN_DIR)/$$tool"; done

.PHONY: run
run: build
	@deploy/run.sh "$(DATA)"

.PHONY: stop
stop:
	@if [ -x "$(OTTLA)" ]; then "$(OTTLA)" local stop --dir "$(DATA)"; else echo "nothing was built, so nothing runs"; fi

.PHONY: fmt-check
fmt-check:
	@deploy/prepare.sh lint
	cargo fmt --all --check

.PHONY: clippy
clippy: prepare
	@deploy/prepare.sh lint
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: lint
lint: fmt-check clippy

# The slow, the cheap and the certain to fail first: format, lints, then tests, which start real processes.
.PHONY: test
test: fmt-check build clippy
	@deploy/prepare.sh test
	@rm -f "$(OTTLA_SKIPPED)"
	@result=0; . "$(OTTLA_CACHE)/test.env"; \
	  cargo test --workspace --locked --no-fail-fast || result=$$?; \
	  FUZZ_SECS=20 cargo test --locked $(FUZZED) || result=$$?; \
	  deploy/advisories.sh || result=$$?; \
	  if [ -s "$(OTTLA_SKIPPED)" ]; then echo "ottla: skipped on this machine:"; sort -u "$(OTTLA_SKIPPED)" | sed 's/^/  /'; fi; \
	  exit $$result

# SEED and SEEDS are for the simulation alone here; in the environment of `cargo test` they choose the seeds of every seeded test.
.PHONY: sim
sim:
	@deploy/prepare.sh toolchain
	cargo run --release --locked -p ottla-simulation -- $(if $(SEED),--seed $(SEED) --steps,--seeds $(SEEDS) --from $(FROM))

# Tests whose input is random bytes or random requests; with FUZZ_SECS each goes on with further seeds for that long.
FUZZED := -p ottla-fuzz

.PHONY: fuzz
fuzz:
	@deploy/prepare.sh toolchain
	FUZZ_SECS=$(FUZZ_SECS) cargo test --release --locked $(FUZZED)

.PHONY: soak
soak: build
	@deploy/prepare.sh test
	cargo run --release --locked -p ottla-simulation -- --seeds $(SOAK_SEEDS) --from $(FROM)
	PROPTEST_CASES=5000 SEEDS=1500 cargo test --release --locked -p ottla-consensus -p ottla-metadata -p ottla-storage -p ottla-group-coordinator
	. "$(OTTLA_CACHE)/test.env"; for round in 1 2 3 4 5; do cargo test --locked -p ottla-chaos; done

.PHONY: mutants
mutants:
	@deploy/prepare.sh toolchain
	@deploy/mutants.sh $(ONLY)

.PHONY: bench
bench: build
	cargo build --release --locked -p ottla-bench --features real-client
	"$(OTTLA_BIN_DIR)/ottla-bench"

.PHONY: images
images: build
	@deploy/images.sh

.PHONY: up
up: images
	@deploy/compose.sh up

.PHONY: down
down:
	@deploy/compose.sh down
