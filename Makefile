# quorate: every command, one line each in `make help`.

CARGO_TARGET_DIR ?= $(CURDIR)/target
QUORATE_GO_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/quorate/go
GO_FETCHED := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/quorate/go-1.26.5/bin
export CARGO_TARGET_DIR QUORATE_GO_DIR
export PATH := $(GO_FETCHED):$(PATH)
# Tests that need a judge from outside (etcd, its tools) fail where it is missing: nothing is skipped silently.
export QUORATE_REQUIRE_JUDGES := 1
# The full disk is a small file system of its own, which only root can mount: without root that test says so.
export QUORATE_REQUIRE_ALL := $(if $(filter 0,$(shell id -u)),1,)
export QUORATE_BIN := $(CARGO_TARGET_DIR)/release/quorate
export QUORATE_WALCHECK := $(QUORATE_GO_DIR)/walcheck
export QUORATE_BBOLTCHECK := $(QUORATE_GO_DIR)/bboltcheck
export QUORATE_ETCDUTL := $(QUORATE_GO_DIR)/etcdutl
export ETCD_BIN := $(QUORATE_GO_DIR)/etcd
IMAGE_FILE := $(CARGO_TARGET_DIR)/quorate-image.tar

SEED ?= 1
IT_KILLS ?= 20
IT_POWER_CUTS ?= 30
MIXED_RUNS ?= 1
# Mixed clusters wait more than they work: for elections, for etcd's five healthy seconds, for leases to end.
MIXED_THREADS ?= 4
IT_LEASES ?= 5000
IT_TAKEOVERS ?= 1

.PHONY: help deps build run demo test test-rust test-go test-suite test-mixed takeover test-ctl test-mixed-it test-docker test-clients clients image demo-docker verify fix bench adversary sim soak bare clean judges walcheck bboltcheck

help: ## Show this list.
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install what building needs (clang, libclang, ccache), or name it.
	@scripts/deps.sh build

build: deps ## Build the server: target/release/quorate.
	cargo build --release --locked -p quorate

run: build ## Start a single member on localhost:2379.
	$(QUORATE_BIN) --log-format=console

demo: build ## Three members, a killed leader, nothing lost (25 seconds).
	cargo run --release --locked -p demo

image: build ## The image without a registry: quorate in Docker's store, and as a file.
	@scripts/deps.sh docker
	@scripts/with-docker.sh deploy/image.sh $(QUORATE_BIN) $(IMAGE_FILE)

demo-docker: build ## The demo with the containers of deploy/compose.yaml and docker kill (40 seconds).
	@scripts/deps.sh docker
	cargo build --release --locked -p demo
	@scripts/with-docker.sh sh -c 'deploy/image.sh $(QUORATE_BIN) $(IMAGE_FILE) && $(CARGO_TARGET_DIR)/release/demo docker'

test: ## Every suite in its short form (half an hour with warm caches): Rust, clientv3, etcd's own.
	@scripts/steps.sh build judges verify test-rust test-go test-clients test-suite test-docker

verify: walcheck bboltcheck ## What is fast: format, lints, unit and style tests. Writes no file.
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --exclude it

test-rust: build judges ## kill -9 and power cuts under load, bad input, faults, clusters mixed with etcd: real processes.
	cargo test --locked -p wal --test etcd
	IT_KILLS=$(IT_KILLS) IT_POWER_CUTS=$(IT_POWER_CUTS) IT_LEASES=$(IT_LEASES) cargo test --locked --release -p it --lib --test it -- --nocapture --test-threads=2 --skip mixed:: --skip takeover::
	cargo test --locked --release -p it --test it -- mixed:: --nocapture --test-threads=$(MIXED_THREADS)
	$(MAKE) --no-print-directory takeover

judges: ## Build etcd, its tools and its test suite from their Go modules.
	@scripts/deps.sh test
	tests/etcd-suite/build.sh $(QUORATE_GO_DIR)

# The judge of the log's unit tests alone.
walcheck:
	@scripts/deps.sh go
	tests/etcd-suite/build.sh --only walcheck $(QUORATE_GO_DIR)

# The judges of bbolt's files.
bboltcheck:
	@scripts/deps.sh go
	tests/etcd-suite/build.sh --only "bboltcheck etcdutl" $(QUORATE_GO_DIR)

test-go: build judges ## clientv3 programs, and the same requests to etcd and to us.
	cd tests/clientv3 && go test -count=1 -parallel 8 -timeout 10m ./...

test-clients: build judges ## Programs of other clients: Python (gRPC and JSON), JavaScript, clientv3 since 3.4, gRPC's C core.
	@scripts/deps.sh test
	tests/clients/run.sh python gateway javascript core go

clients: build judges ## The same, and Java and Rust.
	@scripts/deps.sh clients
	tests/clients/run.sh python gateway javascript core go java rust

test-suite: build judges ## etcd's own common suite against our binary, three-member cases included.
	tests/etcd-suite/run.sh $(QUORATE_BIN)

test-mixed: test-mixed-it ## Two of ours and one etcd, and the reverse: 10,000 requests, kills, faults; then etcd's suite on both.
	tests/etcd-suite/run.sh $(QUORATE_BIN) $(ETCD_BIN)

# The first half of it, MIXED_RUNS times in a row.
test-mixed-it: build judges
	for run in $$(seq $(MIXED_RUNS)); do \
	    echo "mixed clusters, run $$run of $(MIXED_RUNS)"; \
	    IT_MIXED_REQUESTS=10000 IT_MIXED_KILLS=6 \
	        cargo test --locked --release -p it --test it -- mixed:: --nocapture --test-threads=$(MIXED_THREADS) || exit 1; \
	done

takeover: build judges ## Clusters of etcd 3.5, 3.6 and 3.7 taken over under load, and given back (4 minutes; IT_TAKEOVERS rounds).
	IT_TAKEOVERS=$(IT_TAKEOVERS) cargo test --locked --release -p it --test it -- takeover:: --nocapture --test-threads=1

test-docker: build ## Containers: a compose file edited badly, docker stop, and the demo on it.
	@scripts/deps.sh docker
	cargo build --release --locked -p demo
	@scripts/with-docker.sh $(if $(QUORATE_REQUIRE_ALL),,-t) sh -ec 'deploy/image.sh $(QUORATE_BIN) $(IMAGE_FILE); \
	cargo test --locked --release -p it --test docker -- --nocapture --test-threads=2; $(CARGO_TARGET_DIR)/release/demo docker'

test-ctl: build judges ## etcd's suite on stock etcd, with quorate ctl in etcdctl's place.
	tests/etcd-suite/run.sh --etcdctl $(QUORATE_BIN) $(ETCD_BIN)

fix: ## Format and apply the compiler's suggestions.
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

bench: build judges ## Side by side with etcd: throughput, CPU a request, memory, latency.
	cargo run --release --locked -p bench

# ADVERSARY_ROWS=B2,B5* for some of them; ADVERSARY_SCALE=0.1 shows in two minutes that it runs.
adversary: build judges ## Attacks by clients, on etcd and on us, while somebody puts: who lives, what it costs (1 hour).
	cargo run --release --locked -p adversary

sim: ## Run the simulator: make sim SEED=7.
	cargo run --locked --release -p sim -- $(SEED)

soak: build judges ## The long counts: 100 kills and 500 power cuts on one member and on three, 100,000 leases at once, 20 runs of mixed clusters, 20 takeovers of each etcd, containers, 5,000 simulator seeds, a bare machine.
	$(MAKE) --no-print-directory test-rust IT_KILLS=100 IT_DAMAGES=40 IT_POWER_CUTS=500 IT_LEASES=100000 IT_TAKEOVERS=20
	$(MAKE) --no-print-directory test-mixed-it MIXED_RUNS=20
	$(MAKE) --no-print-directory test-docker
	$(MAKE) --no-print-directory test-ctl
	$(MAKE) --no-print-directory clients
	cargo run --locked --release -p sim -- 1..5000
	PROPTEST_CASES=5000 BBOLT_CASES=100000 BBOLT_SEEDS=200 cargo test --locked -p bbolt -p wal -p mvcc -p machine -p gateway -p lease
	cd tests/clientv3 && IDLE_CONNECTIONS=10000 go test -count=1 -timeout 10m -run TestIdleConnections .
	$(MAKE) --no-print-directory bare

bare: ## The README's commands, then .ci/run, each in a Debian with nothing in it (root; hours).
	scripts/bare.sh

clean: ## Remove what was built here.
	cargo clean
