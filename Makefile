# Commands for users and CI. `make` without a target does the same as `make run`.

CARGO ?= cargo
FUZZ_SECONDS ?= 60

# Serves the recording fixtures/node on http://localhost:8080/metrics. Needs neither root nor containerd.
.PHONY: run
run: protoc
	SMAPS_EXPORTER_REVISION=$(REVISION) \
		$(CARGO) run --release --locked -- --fixture fixtures/node --filter '*/*/*/*'

# Runs the unit and integration tests. They need neither root nor a network.
.PHONY: test
test: protoc
	$(CARGO) test --locked

# Checks every text for words to avoid and for lines that are too long. Then checks the formatting, runs
# clippy and builds the documentation. A warning is an error.
.PHONY: lint
lint: protoc
	.ci/words.py --self-test
	.ci/words.py
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

# Checks the crates that are linked into the binary: licenses, sources, duplicates and security advisories.
# Needs the network and cargo-deny.
.PHONY: deny
deny:
	@command -v cargo-deny > /dev/null || \
	{ echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny --locked --config .ci/deny.toml check

# Packages the crate as for publishing. The package must build without tests and fixtures.
.PHONY: package
package: protoc
	@if $(CARGO) package --locked --allow-dirty --list | grep -E '^(fixtures|tests)/'; then \
	echo "these files must not be in the crate" >&2; exit 1; fi
	$(CARGO) package --locked --allow-dirty

# Builds the program with optimizations and dynamic linking. Releases contain the statically linked program
# that `make static` builds.
.PHONY: build
build: protoc
	$(CARGO) build --release --locked

# Tests the program with a real containerd, kernel and Prometheus. Needs root on Debian, and installs
# everything else. GROUPS selects groups of tests/e2e/groups.py: make e2e GROUPS=waiting
.PHONY: e2e
e2e: protoc
	tests/e2e/run $(GROUPS)

# Tests the static binary and its image on several Debian kernels, in virtual machines. Needs root on Debian,
# but no KVM. NODES selects the machines: make e2e-nodes NODES="bookworm sid"
NODES ?=
.PHONY: e2e-nodes
e2e-nodes: image-tar
	EXPORTER=$(STATIC) IMAGE_TAR=$(IMAGE_TAR) tests/nodes/run $(NODES)

# Builds and tests the static aarch64 binary: with recordings under qemu-user, and in virtual machines with
# pages of 4 KiB and 16 KiB. Needs root on Debian.
.PHONY: static-arm64 test-arm64 e2e-arm64
static-arm64:
	$(MAKE) static TARGET=aarch64-unknown-linux-musl
test-arm64: static-arm64
	tests/nodes/arm64 \
		$(or $(CARGO_TARGET_DIR),target)/aarch64-unknown-linux-musl/release/smaps-container-exporter
e2e-arm64:
	$(MAKE) e2e-nodes TARGET=aarch64-unknown-linux-musl NODES="arm64 arm64-16k"

# Measures the exporter on a node with 250 containers and 1,500 processes: first recorded processes, then real
# ones, each with the options of the manifest and with --group-by path. Each of these four measurements takes
# five minutes. With LOAD="live 60", measures only the real processes, for 60 seconds with each set of
# options. Needs root.
LOAD ?=
.PHONY: load
load: build
	tests/nodes/load $(LOAD)

# Tests the parts of the memory map's script that need no browser, with the test runner of Node.js.
.PHONY: page-test
page-test:
	@command -v node > /dev/null || \
	{ command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	apt-get install -y -qq --no-install-recommends nodejs > /dev/null; } || \
	{ echo "node is missing: sudo apt-get install nodejs, or brew install node" >&2; exit 1; }
	node --test tests/page/*.test.mjs

# Tests the memory map in a real Chromium. Needs root, to install Chromium on Debian and because one test
# makes cgroups.
.PHONY: browser
browser: build page-test
	tests/browser/run

# Runs the benchmarks, which print ratios between figures of the same run. If the user is root, also runs the
# three benchmarks below, which take a quarter of an hour more.
.PHONY: bench
bench: protoc
	$(CARGO) bench --locked --bench bench
	if [ "$$(id -u)" = 0 ]; then $(MAKE) bench-node bench-ledger bench-containerd; fi

# Runs each benchmark once, on little data and without optimization. This shows only that the benchmarks work.
.PHONY: bench-short
bench-short: protoc
	$(CARGO) test --locked --bench bench -- --short

# Updates the table in README.md that states how many series the exporter has on a node of 100 pods. Also
# measures the last column of this table, which is the resident memory of the static binary.
.PHONY: sizing
sizing: static
	EXPORTER=$(STATIC) BLESS=1 $(CARGO) test --locked --test tests tables::series_counts

# Measures how many millicores the exporter uses on a node with 110 pods, with the options of the manifest.
# Compares it with process-exporter. Takes seven minutes, or less with ROUNDS=1. Needs root.
ROUNDS ?= 4
.PHONY: bench-node
bench-node: build
	tests/bench/node $(ROUNDS)

# Measures how much CPU time the metrics of pods and of the node add to a scrape, with 110 pods in real
# cgroups. Needs root.
.PHONY: bench-ledger
bench-ledger: build
	tests/bench/ledger $(or $(CARGO_TARGET_DIR),target)/release/smaps-container-exporter

# Measures how much CPU time containerd and its shims use because of the exporter, with 50 pods. Needs root.
.PHONY: bench-containerd
bench-containerd: build
	tests/bench/containerd

# Records fixtures/node again, from real programs under a real containerd. Needs root.
.PHONY: record-fixture
record-fixture: protoc
	tests/record/run

# Installs protoc, which the build of containerd-client needs. If the installation would ask for a password or
# for an answer, prints how to install protoc.
.PHONY: protoc
protoc:
	@command -v protoc > /dev/null || .ci/protoc.sh

# Searches for rare faults for hours: runs long soak tests, 3,000 steps of the exactness test, the tests in
# all virtual machines, and long fuzzing. Needs what .ci/run needs.
.PHONY: night
night:
	.ci/night

# --- Shipping: the static binary, the image, the manifest -------------------------------------------------

# The target of the static binary. To build for the other architecture: make static
# TARGET=aarch64-unknown-linux-musl
TARGET ?= $(subst arm64,aarch64,$(shell uname -m))-unknown-linux-musl
STATIC = $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/$(TARGET)/release/smaps-container-exporter
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
DIRTY := $(shell git status --porcelain 2>/dev/null | grep -q . && echo -dirty)
REVISION := $(shell git rev-parse --short=12 HEAD 2>/dev/null)$(DIRTY)
IMAGE ?= localhost/smaps-container-exporter:$(VERSION)
# The values that the build writes into the binary: its commit, and the name of the image in printed
# manifests.
BUILD_INFO = SMAPS_EXPORTER_REVISION=$(REVISION) SMAPS_EXPORTER_IMAGE=$(IMAGE)
IMAGE_TAR ?= target/smaps-container-exporter.tar
ENGINE ?= $(firstword $(foreach engine,podman buildah docker,$(if $(shell command -v $(engine)),$(engine))))

# Builds a static binary for TARGET. The same commit and toolchain give the same bytes. With MUSL_STD=debian,
# the standard library comes from Debian's packages.
.PHONY: static
static: protoc
	$(BUILD_INFO) .ci/static.sh $(TARGET)

# Proves that the static binary runs on a kernel without any other file. Needs root, for chroot.
.PHONY: test-static
test-static: static
	.ci/test-static.sh $(STATIC)

# Builds the static binary a second time, and checks that its bytes are the same.
.PHONY: test-reproducible
test-reproducible: static
	$(BUILD_INFO) .ci/test-reproducible.sh $(STATIC) $(TARGET)

# Builds the image with podman, buildah or docker, for the architecture of this machine. On an amd64 machine,
# IMAGE_FLAGS='--platform linux/arm64' builds it for arm64.
.PHONY: image
image:
	$(or $(ENGINE),$(error found none of podman, buildah and docker: "make image-tar" needs none)) \
		build -f Containerfile -t $(IMAGE) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --build-arg IMAGE=$(IMAGE) \
		$(IMAGE_FLAGS) .

# Builds the same image as an OCI archive, for tests and for nodes without internet. Needs neither a container
# engine nor a network.
.PHONY: image-tar
image-tar: static
	mkdir -p $(dir $(IMAGE_TAR))
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
		.ci/image-tar.py $(STATIC) $(IMAGE_TAR) $(IMAGE) VERSION=$(VERSION) REVISION=$(REVISION)

# Prints one of the files for users: the manifest for IMAGE, the PodMonitor, the alert rules or the Grafana
# dashboard.
# make manifest IMAGE=registry.example/smaps-container-exporter:0.2.0 | kubectl apply -f -
PRINTED = manifest manifest-without-socket podmonitor prometheusrule rules dashboard
.PHONY: $(PRINTED)
$(PRINTED): protoc
	@$(CARGO) run --quiet --release --locked -- --print $@ --image $(IMAGE)

# Lists the crates that are linked into the static binary, as CycloneDX. Needs cargo-cyclonedx.
SBOM ?= target/smaps-container-exporter-$(TARGET).cdx.json
.PHONY: sbom
sbom:
	@command -v cargo-cyclonedx > /dev/null || \
	{ echo "cargo-cyclonedx is missing: cargo install --locked cargo-cyclonedx" >&2; exit 1; }
	mkdir -p $(dir $(SBOM))
	$(CARGO) cyclonedx --quiet --format json --describe binaries --target $(TARGET) --no-build-deps \
		--spec-version 1.5
	mv smaps-container-exporter_bin.cdx.json $(SBOM)

# Runs the steps of the release workflow that do not need GitHub, on the last commit. Checks the files that
# the workflow would upload. Needs what .ci/run needs, and the network for cargo-cyclonedx. The first run
# takes half an hour.
.PHONY: rehearse-release
rehearse-release:
	tests/e2e/setup.sh
	tests/e2e/.venv/bin/python .ci/rehearse-release.py

# --- Fuzzing ----------------------------------------------------------------------------------------------

# Runs each fuzz target for FUZZ_SECONDS. FUZZ_OPTIONS are passed to libFuzzer: make fuzz FUZZ_SECONDS=20
# FUZZ_OPTIONS=-seed=1. Needs a nightly toolchain.
FUZZ_OPTIONS ?=
.PHONY: fuzz
fuzz:
	tests/fuzz/run $(FUZZ_SECONDS) $(FUZZ_OPTIONS)

# Runs each fuzz target once on its seeds, and does not search for new inputs. Needs only the stable
# toolchain.
.PHONY: fuzz-seeds
fuzz-seeds:
	tests/fuzz/run seeds

# Makes one change to the code at a time, and runs the tests. Lists in target/mutants.out the changes that no
# test notices. Needs cargo-mutants and hours. For one file: make mutants MUTANTS='--file
# src/smaps/scanner.rs'. The tests are built without optimization, because building takes most of the time.
MUTATED = src/smaps/**/*.rs src/totals/**/*.rs src/exposition/**/*.rs src/cgroupfs/**/*.rs \
	src/procfs/cgroup.rs src/node/**/*.rs
MUTANTS ?= $(foreach files,$(MUTATED),--file '$(files)')
.PHONY: mutants
mutants: protoc
	@command -v cargo-mutants > /dev/null || \
	{ echo "cargo-mutants is missing: cargo install --locked cargo-mutants" >&2; exit 1; }
	mkdir -p target
	CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0 \
		$(CARGO) mutants --cargo-arg=--locked --output target $(MUTANTS)
