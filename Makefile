# The targets to build, run and test Ottla. `make run` needs only a Debian machine with Rust and root (or sudo); see
# README.md.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Expensive build results that do not depend on the clone: RocksDB's archive, the test clients' virtual environment.
export OTTLA_CACHE ?= $(HOME)/.cache/ottla

# In CI every run has a fresh clone. It compiles into the cache, so that the next run reuses the results.
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(OTTLA_CACHE)/target
endif
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
export OTTLA_BIN_DIR := $(TARGET)/release

# Compiling RocksDB takes two minutes on two cores. Every profile and every clone links the one archive in the cache.
ROCKSDB_VERSION := $(shell awk '/^name = "librocksdb-sys"/ { getline; gsub(/version = |"/, ""); print }' Cargo.lock)
export ROCKSDB_LIB_DIR := $(OTTLA_CACHE)/rocksdb-$(ROCKSDB_VERSION)
export ROCKSDB_STATIC := 1

DATA ?= data
SEEDS ?= 1000
FROM ?= 0
# FUZZ_SECS: minimum time of each test in `make fuzz`. SOAK_SEEDS: number of seeds in `make soak`.
FUZZ_SECS ?= 60
SOAK_SEEDS ?= 20000
# OPERATIONS_MIB: MiB of records, before replication, that move in the operator's tests of `make soak`. Their three
# replicas are on the disk, and for a while those that move, too.
OPERATIONS_MIB ?= 3400
# A skipped test adds a line to this file; `make test` prints the file at its end.
export OTTLA_SKIPPED := $(TARGET)/skipped-tests
OTTLA := $(OTTLA_BIN_DIR)/ottla
# Kafka's tool names: links to the binary `ottla`.
TOOLS := kafka-acls kafka-topics kafka-console-producer kafka-console-consumer kafka-consumer-groups kafka-get-offsets \
  kafka-delegation-tokens kafka-delete-records kafka-configs kafka-log-dirs kafka-broker-api-versions kafka-cluster \
  kafka-metadata-quorum kafka-leader-election kafka-reassign-partitions kafka-transactions kafka-dump-log \
  kafka-groups kafka-features kafka-producer-perf-test kafka-consumer-perf-test kafka-e2e-latency \
  kafka-verifiable-producer kafka-verifiable-consumer kafka-metadata-shell \
  kafka-streams-application-reset kafka-client-metrics kafka-replica-verification

.PHONY: help
help:
	@echo "make run          build, start three coordinators and three brokers on this machine, run a short demonstration"
	@echo "make run-secure   the same with certificates between all processes, logins and rules; wants a DATA of its own"
	@echo "make stop         stop them (their data stays in $(DATA)/)"
	@echo "make test         all tests that this machine can run"
	@echo "make build        release binaries in $(OTTLA_BIN_DIR)"
	@echo "make install      binaries, tools, completions and manual pages in PREFIX=$(PREFIX)"
	@echo "make lint         formatting and clippy"
	@echo "make sim SEEDS=n  n seeds of the simulation, from FROM=n; SEED=n replays one, step by step; SIM_OPTIONS=options"
	@echo "make fuzz         hostile bytes, admin requests, a million spoilt messages; FUZZ_SECS=n for each test"
	@echo "make soak         long: SOAK_SEEDS=n seeds, seeded tests with ten times their runs, faults under load"
	@echo "make upgrade      rolling upgrade from the previous release (deploy/previous-release), which is built once"
	@echo "make attack       random bad clients beside good ones for ATTACK_SECS=n seconds; SEED=n replays one"
	@echo "make crossed      Kafka's own tools say to Ottla what they say to Kafka; make goldens records that anew"
	@echo "make mutants      changes of the cores that no test detects (docs/mutants.md); ONLY=regex, SAMPLE=n"
	@echo "make bench        measures every layer and compares it with the machine's limit"
	@echo "make up, down     start or stop the same cluster in containers"

.PHONY: prepare
prepare:
	@deploy/prepare.sh build

# The broker does not need RocksDB: on a fresh machine both are compiled at the same time. Both cargo calls name the
# same packages, so that cargo selects the same features of their dependencies; --bin selects the binary.
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

# DESTDIR is put before every path, for packages.
PREFIX ?= /usr/local
SHARE := $(DESTDIR)$(PREFIX)/share
COMPLETIONS := $(SHARE)/bash-completion/completions

.PHONY: install
install: build
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(COMPLETIONS)" "$(SHARE)/zsh/site-functions" \
	  "$(SHARE)/fish/vendor_completions.d" "$(SHARE)/man/man1"
	install -m 755 "$(OTTLA)" "$(OTTLA_BIN_DIR)/ottla-broker" "$(OTTLA_BIN_DIR)/ottla-coordinator" \
	  "$(DESTDIR)$(PREFIX)/bin"
	@for tool in $(TOOLS); do \
	  ln -sf ottla "$(DESTDIR)$(PREFIX)/bin/$$tool" && ln -sf ottla "$(DESTDIR)$(PREFIX)/bin/$$tool.sh"; \
	done
	install -m 644 deploy/completions/ottla.bash "$(COMPLETIONS)/ottla"
	@for tool in $(TOOLS); do ln -sf ottla "$(COMPLETIONS)/$$tool"; done
	"$(OTTLA)" generate completions zsh > "$(SHARE)/zsh/site-functions/_ottla"
	"$(OTTLA)" generate completions fish > "$(SHARE)/fish/vendor_completions.d/ottla.fish"
	"$(OTTLA)" generate man "$(SHARE)/man/man1"

.PHONY: run
run: build
	@deploy/run.sh "$(DATA)"

.PHONY: run-secure
run-secure: build
	@deploy/run-secure.sh "$(DATA)"

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

# Cheap checks first: format, then build and lints, then tests, which start real processes.
.PHONY: test
test: fmt-check build clippy
	@deploy/prepare.sh test
	@rm -f "$(OTTLA_SKIPPED)"
	@result=0; . "$(OTTLA_CACHE)/test.env"; \
	  deploy/test.sh || result=$$?; \
	  deploy/advisories.sh || result=$$?; \
	  if [ -s "$(OTTLA_SKIPPED)" ]; then \
	    echo "ottla: skipped on this machine:"; sort -u "$(OTTLA_SKIPPED)" | sed 's/^/  /'; \
	  fi; \
	  exit $$result

# Here SEED and SEEDS apply only to the simulation. In the environment of `cargo test` they select the seeds of every
# seeded test. SIM_OPTIONS: further options of the simulation, as the line that replays a seed names them.
SIM_OPTIONS ?=
.PHONY: sim
sim:
	@deploy/prepare.sh toolchain
	cargo run --release --locked -p ottla-simulation -- \
	  $(if $(SEED),--seed $(SEED) --steps,--seeds $(SEEDS) --from $(FROM)) $(SIM_OPTIONS)

# Tests whose input is random bytes or random requests. With FUZZ_SECS each test runs further seeds for that time.
.PHONY: fuzz
fuzz: build
	FUZZ_SECS=$(FUZZ_SECS) cargo test --release --locked -p ottla-fuzz
	SEEDS=500 cargo test --release --locked -p ottla-fuzz --test members -- --nocapture

.PHONY: soak
soak: build
	@deploy/prepare.sh test
	cargo run --release --locked -p ottla-simulation -- --seeds $(SOAK_SEEDS) --from $(FROM)
	cargo run --release --locked -p ottla-simulation -- --clusters --releases --seeds 2000 --from $(FROM)
	PROPTEST_CASES=5000 SEEDS=1500 cargo test --release --locked \
	  -p ottla-consensus -p ottla-metadata -p ottla-storage -p ottla-group-coordinator
	. "$(OTTLA_CACHE)/test.env"; SEEDS=4 cargo test --locked -p ottla-chaos
	. "$(OTTLA_CACHE)/test.env"; cargo test --locked -p ottla-chaos
	. "$(OTTLA_CACHE)/test.env"; cargo test --locked -p ottla-chaos --test failing_disks --test bad_links --test clocks \
	  -- --ignored
	. "$(OTTLA_CACHE)/test.env"; SEEDS=10 cargo test --locked -p ottla-chaos random_faults -- --nocapture
	. "$(OTTLA_CACHE)/test.env"; OTTLA_OPERATIONS_MIB=$(OPERATIONS_MIB) \
	  cargo test --locked -p ottla-chaos --test operations -- --nocapture
	$(MAKE) upgrade
	. "$(OTTLA_CACHE)/test.env"; SEEDS=3 OTTLA_ATTACK_SECS=600 OTTLA_ATTACK_PARTITIONS=30000 \
	  cargo test --locked -p ottla-e2e --test attacks
	. "$(OTTLA_CACHE)/test.env"; OTTLA_HOSTILE_CONNECTIONS=100000 \
	  cargo test --locked -p ottla-e2e --test hostile_before_login -- --nocapture

# A cluster of the previous release becomes this one and goes back, under a writer and a group.
.PHONY: upgrade
upgrade: build
	@deploy/prepare.sh test
	. "$(OTTLA_CACHE)/test.env"; older=$$(deploy/previous.sh) && OTTLA_PREVIOUS_BIN_DIR="$$older" \
	  cargo test --locked -p ottla-chaos --test operations rolling_upgrade -- --nocapture

# Random bad clients beside good ones, on a cluster with small ceilings. SEED replays one. `make test` runs it for 20 s.
ATTACK_SECS ?= 120
.PHONY: attack
attack: build
	@deploy/prepare.sh test
	. "$(OTTLA_CACHE)/test.env"; OTTLA_ATTACK_SECS=$(ATTACK_SECS) \
	  cargo test --locked -p ottla-e2e --test attacks random_relatives -- --nocapture

# The recorded commands with Kafka's own tools, a JVM for each: at an Ottla, or at a Kafka to record what they say.
.PHONY: crossed goldens
crossed goldens: build
	@deploy/prepare.sh test
	. "$(OTTLA_CACHE)/test.env"; cargo test --locked -p ottla-e2e --test goldens -- --ignored --nocapture \
	  $(if $(filter goldens,$@),record_,kafkas_tools)

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
