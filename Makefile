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
	@echo "make sim SEEDS=n  n seeds of the simulation; SEED=n replays one, step by step"
	@echo "make bench        every layer beside what this machine can do"
	@echo "make up, down     the same cluster in containers"

.PHONY: prepare
prepare:
	@deploy/prepare.sh build

.PHONY: build
build: prepare
	cargo build --release --locked -p ottla-cli -p ottla-coordinator -p ottla-broker
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
	. "$(OTTLA_CACHE)/test.env" && cargo test --workspace --locked --no-fail-fast
	@deploy/advisories.sh

.PHONY: sim
sim: prepare
	cargo run --release --locked -p ottla-simulation -- $(if $(SEED),--seed $(SEED) --steps,--seeds $(SEEDS) --from $(FROM))

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
