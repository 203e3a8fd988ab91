# Davit's targets; `make help` lists them. CI runs the same ones.

PREFIX  ?= /usr/local
DESTDIR ?=
CARGO   ?= cargo
FORKY   ?= target/forky
KERNEL  ?= target/kernel

TRIPLE  := $(shell rustc -vV | sed -n 's/^host: //p')
# The shim is linked statically and at a fixed address: no relocations, so
# none of its pages is private to a process merely for having been loaded.
SHIM_RUSTFLAGS := -C target-feature=+crt-static -C relocation-model=static
SHIM_DIR       := target/shim
RELEASE        := target/release
BINARIES       := $(RELEASE)/davitd $(RELEASE)/davit $(RELEASE)/containerd-shim-davit-v2
# Packages that the build itself wants: a C compiler for SQLite and zstd.
BUILD_PACKAGES := gcc libc6-dev make

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 20

.PHONY: build-packages
build-packages:
	@dpkg-query -W $(BUILD_PACKAGES) >/dev/null 2>&1 || \
		{ apt-get -q update && apt-get install -q -y --no-install-recommends $(BUILD_PACKAGES); }

# Side by side: the last step of either, one program as a whole, takes one core.
.PHONY: release
release: ## build davitd, davit and the shim, optimised, into target/release
	@$(MAKE) --no-print-directory -j2 programs shim

.PHONY: programs
programs: build-packages
	$(CARGO) build --locked --release -p davit-daemon -p davit-cli

.PHONY: shim
shim: build-packages
	RUSTFLAGS="$(SHIM_RUSTFLAGS)" $(CARGO) build --locked --profile shim --target $(TRIPLE) \
		--target-dir $(SHIM_DIR) -p davit-shim --bin containerd-shim-davit-v2
	install -D -m 755 $(SHIM_DIR)/$(TRIPLE)/shim/containerd-shim-davit-v2 $(RELEASE)/containerd-shim-davit-v2

.PHONY: demo
demo: release ## run a real container through a private davitd, with no network
	integration/demo.sh $(RELEASE)

.PHONY: test-setup
test-setup: check-packages ## install what the tests need: Debian packages, newer peers, a kernel
	integration/setup.sh $(FORKY) $(KERNEL)

# Side by side: the peers' packages are mostly waited for.
.PHONY: ready
ready:
	@$(MAKE) --no-print-directory -j3 test-setup programs shim

.PHONY: test
test: ready ## run every test, hermetic and black box
	integration/run-tests.sh --workspace

.PHONY: integration
integration: ready ## run the black-box tests alone
	integration/run-tests.sh -p davit-integration

# A peer that the protocols are checked against calls protoc when it is built.
CHECK_PACKAGES := protobuf-compiler

.PHONY: check-packages
check-packages: build-packages
	@dpkg-query -W $(CHECK_PACKAGES) >/dev/null 2>&1 || \
		{ apt-get -q update && apt-get install -q -y --no-install-recommends $(CHECK_PACKAGES); }

.PHONY: check
check: check-packages ## formatting, lints, dependencies, layout
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked -q -p davit-tests --test layout --test dependencies

# libFuzzer is C++.
FUZZ_PACKAGES := g++
FUZZ_SECONDS  ?= 120

.PHONY: fuzz-packages
fuzz-packages: build-packages
	@dpkg-query -W $(FUZZ_PACKAGES) >/dev/null 2>&1 || \
		{ apt-get -q update && apt-get install -q -y --no-install-recommends $(FUZZ_PACKAGES); }

.PHONY: fuzz
fuzz: fuzz-packages ## run each fuzz target under libFuzzer for FUZZ_SECONDS (120)
	tests/fuzz/libfuzzer/run-all $(FUZZ_SECONDS)

.PHONY: bench
bench: ready ## measure what docs/SPEC.md promises, beside containerd
	$(CARGO) run --locked -q -p davit-integration --bin bench

.PHONY: install
install: ## install the binaries and the systemd unit below DESTDIR/PREFIX
	@for binary in $(BINARIES); do test -e $$binary || { echo "$$binary is missing: run 'make release' first" >&2; exit 1; }; done
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 755 $(BINARIES) $(DESTDIR)$(PREFIX)/bin/
	sed 's|@PREFIX@|$(PREFIX)|' daemon/davit.service.in > $(DESTDIR)$(PREFIX)/lib/systemd/system/davit.service
	chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/davit.service

.PHONY: clean
clean: ## remove what was built, the newer peers included
	$(CARGO) clean
