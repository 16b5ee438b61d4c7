# One profile for everything: the tests want optimised code (they decode, draw and train), and this
# way clippy, the tests and the demo share every compiled dependency.
CARGO ?= cargo
PROFILE ?= release

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint parity fixtures fuzz faults bench bench-peers clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## fetch libtorch into a cache outside the clone (scripts/setup --help has the choices)
	@scripts/setup

demo: setup ## pretrain a small encoder on drawn images and show what it learned
	$(CARGO) build --release -p nearkin
	target/release/nearkin pretrain recipes/demo.toml --out runs/demo-$$(date +%Y%m%d-%H%M%S)

# Tests run side by side, so each gets one thread for its sums. nextest does not run the examples in
# the documentation. The runner's summary comes last.
test: export OMP_NUM_THREADS = 1
test: setup ## run all tests, with cargo-nextest where it is installed
	scripts/test_setup
	python3 -m unittest discover --quiet --start-directory scripts/bench_peers
ifneq ($(shell command -v cargo-nextest),)
	$(CARGO) test --profile $(PROFILE) --workspace --doc
	$(CARGO) nextest run --cargo-profile $(PROFILE) --workspace $(if $(CI),--profile ci)
else
	$(CARGO) test --profile $(PROFILE) --workspace
endif

lint: setup ## check formatting and clippy's lints
	$(CARGO) fmt --all --check
	rustfmt --edition 2024 --check crates/nearkin-objective/src/methods/*.rs # not named by any mod
	$(CARGO) clippy --profile $(PROFILE) --workspace --all-targets -- -D warnings

parity: ## compare the reference values of the tests with PyTorch and torchvision, live
	@scripts/parity

fixtures: ## compute the reference values of the tests anew
	@scripts/parity --write

# Each reader of untrusted bytes in turn; fuzz/README.md has more.
FUZZ = cifar idx image list packed parquet pickle shards voc
SECONDS ?= 60

fuzz: export RUSTC_BOOTSTRAP = 1
fuzz: ## feed the readers of files with damaged bytes, each for SECONDS (needs cargo-fuzz)
	$(foreach target,$(FUZZ),mkdir -p fuzz/corpus/$(target) && cargo fuzz run --sanitizer none \
		$(target) fuzz/corpus/$(target) fuzz/seeds/$(target) -- -max_total_time=$(SECONDS) \
		-timeout=120 -rss_limit_mb=3000 -max_len=8192 &&) true

ROUNDS ?= 200
SEED ?=

faults: export NEARKIN_FAULTS = $(ROUNDS)
faults: export NEARKIN_FAULTS_SEED = $(SEED)
faults: setup ## break runs at random, ROUNDS times, and check that they go on as if unbroken (SEED repeats)
	$(CARGO) test --profile $(PROFILE) -p nearkin --test faults -- --nocapture

bench: setup ## measure how fast views are made, and what loss, k-NN and probes cost
	$(CARGO) run --release -p nearkin-augment --example throughput
	$(CARGO) build --release -p nearkin-augment --example loader
	-python3 scripts/bench_augment.py
	$(CARGO) run --release -p nearkin-objective --example loss_memory
	$(CARGO) run --release -p nearkin-eval --example knn_memory
	$(CARGO) run --release -p nearkin-probe --example side_by_side

# For example PEERS="--workloads moco --rounds 3 --data PATH"; without --data the images are drawn.
PEERS ?=

bench-peers: setup ## train the same in nearkin, lightly and solo-learn, in turns (over an hour)
	$(CARGO) build --release -p nearkin
	"$$(scripts/python_environment peers)" scripts/bench_peers/compare.py $(PEERS)

clean: ## remove what was built; downloads and runs stay
	$(CARGO) clean
