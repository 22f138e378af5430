# Lictor's build. `make help` lists the targets.
#
# Nothing has to be prepared by hand on Debian 12 with Go, make and git: what a
# target needs and the machine lacks is fetched by that target, once, into
# .cache/ or (as root) from Debian's archive. No target but `generate` and `fmt`
# changes a file that git tracks.

SHELL         := /bin/bash
.SHELLFLAGS   := -eu -o pipefail -c
.DEFAULT_GOAL := build
.NOTPARALLEL:
.DELETE_ON_ERROR:

GO         ?= go
CLANG      := clang-19
CFORMAT    := clang-format-19
LINT       := .cache/bin/golangci-lint
BENCHSTAT  := .cache/bin/benchstat
C_SOURCES   = $(filter-out %/vmlinux.h,$(wildcard kernel/bpf/*.c kernel/bpf/*.h))
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null)
STAMP      := github.com/lictor-mesh/lictor/daemon/version.version
BUILDFLAGS  = -trimpath -buildvcs=false -ldflags '-w -X $(STAMP)=$(VERSION)'

# For one package at a time: make test PACKAGES=./kernel/...
PACKAGES ?= ./...
# For one test: make test TESTFLAGS='-run TestX -v'
TESTFLAGS ?=
# How long `make fuzz` stays with each target, and `make test`.
FUZZTIME  ?= 30s
FUZZBRIEF := 2s
# Suites of `make bench`, words of `make failover`'s scenarios; empty: all.
ONLY ?=
# How often `make failover` loses a server, of each kind.
ROUNDS ?= 20
# How often `make bench-packages` runs each benchmark.
COUNT ?= 6
# make demo KEEP=1 leaves it running.
KEEP ?=
# How many rounds `make storm` and `make powercut` take, and their seed; empty:
# one of their own.
N    ?= 1000
SEED ?=
# Kernels of `make kernels`; empty: all.
KERNELS ?=
# How QEMU runs them: kvm where the machine has it, else a processor is emulated.
ACCEL ?= tcg,thread=multi
# How many hours `make soak` takes.
H ?= 1

# $(call debian,TEST,PACKAGES): install Debian packages unless TEST holds.
define debian
	@{ $(1); } >/dev/null 2>&1 || { \
	  command -v apt-get >/dev/null || { echo "make $@: this is no Debian; install what Debian calls $(2), and try again" >&2; exit 1; }; \
	  [ "$$(id -u)" = 0 ] || { echo "make $@: packages are missing; run: sudo apt-get install $(2)" >&2; exit 1; }; \
	  echo "==> installing $(2) (about half a minute, once)"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $(2) >/dev/null; }
endef

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: go
go:
	@command -v $(GO) >/dev/null || { echo "make: no $(GO) on PATH; install Go $$(awk '$$1 == "go" { print $$2 }' go.mod) or later from https://go.dev/dl/" >&2; exit 1; }

.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || { \
	  echo "make $(MAKECMDGOALS): needs root, as it attaches BPF programs in namespaces and cgroups of its own; make build, lint and test-unit do not" >&2; exit 1; }

.PHONY: build
build: go ## build bin/lictord and bin/lictor, static
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o bin/ ./daemon/lictord ./tools/lictor

.PHONY: generate
generate: go clang ## compile the C core and its Go bindings into kernel/ (committed)
	$(GO) generate ./kernel/...

.PHONY: check-generate
check-generate: go clang ## fail if what is committed is not what generate makes
	@rm -rf .cache/generate && mkdir -p .cache/generate
	@cp -r go.mod go.sum kernel .cache/generate/ && rm .cache/generate/kernel/lictor_bpf*
	@cd .cache/generate && $(GO) generate ./kernel/...
	@diff -r --brief kernel .cache/generate/kernel || { \
	  echo "make check-generate: run make generate and commit what it changes (made with $$($(CLANG) --version | head -1))" >&2; exit 1; }
	@rm -rf .cache/generate

.PHONY: clang
clang:
	$(call debian,command -v $(CLANG) && command -v llvm-strip-19,clang-19 llvm-19)
	$(call debian,test -e /usr/include/bpf/bpf_helpers.h,libbpf-dev)

.PHONY: clang-format
clang-format:
	$(call debian,command -v $(CFORMAT),clang-format-19)

$(LINT): tools/deps/lint/go.mod tools/deps/lint/go.sum
	@echo "==> building golangci-lint (2 to 4 minutes, once)"
	@mkdir -p $(@D)
	@cd $(<D) && $(GO) build -trimpath -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

.PHONY: fmt
fmt: go clang-format $(LINT) ## format Go and C
	$(LINT) fmt
	$(CFORMAT) -i $(C_SOURCES)

.PHONY: lint
lint: go clang-format $(LINT) ## vet, golangci-lint with the rules of imports, formatting of Go and C
	$(GO) vet ./...
	$(LINT) run ./...
	$(CFORMAT) --dry-run --Werror $(C_SOURCES)

.PHONY: parts
parts: go ## get the real Consul and Envoy that tests and demo use (5 minutes, once)
	$(call debian,command -v gcc && command -v python3,gcc libc6-dev python3)
	$(GO) run ./tools/testbed fetch

.PHONY: browser
browser: ## get the Chromium that tests of pages use, and npm for their checker of accessibility (as root, once)
	$(call debian,command -v chromium,chromium fonts-dejavu-core)
	$(call debian,command -v npm,npm)

.PHONY: shells
shells: ## get the shells in which completion is tested (as root, once)
	$(call debian,command -v bash && command -v zsh && command -v fish,bash zsh fish)

# $(call fuzz,TIME): fuzz each target of PACKAGES for TIME. What gave new coverage
# is kept in .cache/fuzz, by package and target, and is where the next run begins;
# a failing input is kept beside its test in testdata/fuzz. Before Go 1.27 the go
# command itself may fail when the time is up (go.dev/issue/75804): tried again.
define fuzz
	@mkdir -p .cache/fuzz; log=.cache/fuzz/log; \
	$(GO) list -f '{{.Dir}} {{.ImportPath}}' $(PACKAGES) | while read -r dir package; do \
	  for func in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$$dir"/*_test.go 2>/dev/null | cut -c6-); do \
	    echo "==> $$func in $$package"; \
	    run() { $(GO) test -run '^$$' -fuzz "^$$func$$" -fuzztime $(1) -fuzzminimizetime 1000x "$$package" \
	      -args -test.fuzzcachedir="$(CURDIR)/.cache/fuzz/$$package" </dev/null 2>&1 | tee $$log; }; \
	    run || { grep -q '^ *context deadline exceeded$$' $$log && ! grep -q 'Failing input' $$log && run; } || exit 1; \
	  done; \
	done
endef

# Packages that wait most of the time and measure none, longest first.
WAITING := tools/e2e/mesh tools/storm tools/testbed/bed tools/e2e/fleet tools/e2e/input daemon/catalog \
           daemon/credentials daemon/lifecycle daemon/secrets tools/lictor
ALL      = $(or $(shell $(GO) list $(PACKAGES)),$(error no package is in $(PACKAGES)))
WAITERS  = $(filter $(ALL),$(addprefix github.com/lictor-mesh/lictor/,$(WAITING)))
gotest   = $(if $(2),REQUIRE_PRIVILEGED=1 $(GO) test -p $(1) -count=1 -timeout 20m $(TESTFLAGS) $(2),:)

# Packages that wait run beside each other; the rest one after the other: they
# load programs, kill servers and measure time, and there may be two cores only.
# (tools/e2e runs its tests beside each other by itself.) -count=1, as the
# kernel below is no part of what the go command's cache knows.
.PHONY: test
test: root build parts browser shells ## everything, with real sockets, Consul and Envoy; needs root
	$(GO) build ./...
	@failed=0; $(call gotest,4,$(WAITERS)) || failed=1; $(call gotest,1,$(filter-out $(WAITERS),$(ALL))) || failed=1; exit $$failed
	$(if $(TESTFLAGS),,$(call fuzz,$(FUZZBRIEF)))

# As root the capabilities are put down first, so that nothing is attached.
.PHONY: test-unit
test-unit: go ## what needs neither root nor Consul, under the race detector
	$(call debian,command -v gcc,gcc libc6-dev)
	CGO_ENABLED=1 $$([ "$$(id -u)" != 0 ] || echo setpriv --bounding-set=-all --inh-caps=-all) \
	  $(GO) test -race -timeout 10m $(TESTFLAGS) $(PACKAGES)

.PHONY: fuzz
fuzz: go ## fuzz each target for FUZZTIME (30s)
	$(call fuzz,$(FUZZTIME))

.PHONY: storm
storm: root build parts ## kill lictord N (1000) times while clients register, and judge what is left; SEED repeats one
	REQUIRE_PRIVILEGED=1 STORM_ROUNDS=$(N) STORM_SEED=$(SEED) $(GO) test -count=1 -timeout 0 -run '^TestCrashStorm$$' -v ./tools/storm

.PHONY: powercut
powercut: root build ## cut the power of a journal N (1000) times, and of a whole host N/50 times; SEED repeats one
	@$(GO) build -trimpath -o .cache/bin/powercut ./tools/powercut
	@exec .cache/bin/powercut -n $(N) -lictord $$(($(N) / 50 + 1)) $(if $(SEED),-seed $(SEED))

.PHONY: soak
soak: root build parts ## H (1) hours of pods, servers and restarts that come and go, all counted and measured; SEED repeats one
	@CGO_ENABLED=0 $(GO) build -trimpath -o .cache/bin/soak ./tools/soak
	@exec .cache/bin/soak --hours=$(H) $(if $(SEED),--seed=$(SEED))

.PHONY: pictures
pictures: root build parts browser ## draw the dashboards with Grafana's own components, and take their pictures and the status page's anew: 20 minutes (npm gets 475 MB, once)
	REQUIRE_PRIVILEGED=1 $(GO) test -tags pictures -p 1 -count=1 -timeout 20m -run '^(TestPanelsDraw|TestPictures)$$' -v \
	  ./tools/e2e/observe ./tools/e2e/page -update

.PHONY: churn
churn: root build parts ## a hundred proxies with logins come, go and crash at random for a minute, and lictord too: nothing may be left
	REQUIRE_PRIVILEGED=1 CHURN=1m $(GO) test -count=1 -timeout 10m -run '^TestChurnLeavesNothing$$' -v ./tools/e2e

.PHONY: failover
failover: root build parts ## lose a Consul server ROUNDS (20) times a kind, and time each Envoy's way to another: 50 minutes; ONLY=lictor,kill for some; DATAPLANE=... to compare
	@CGO_ENABLED=0 $(GO) build -trimpath -o .cache/bin/failover ./tools/failover
	@exec .cache/bin/failover -rounds=$(ROUNDS) -only='$(ONLY)'

.PHONY: kernels
kernels: build ## boot Debian's kernels in QEMU (KERNELS="6.1 6.12" for some) and run what attaches to a kernel on each: minutes each (ACCEL=kvm: less)
	$(call debian,command -v qemu-system-x86_64,qemu-system-x86)
	$(call debian,command -v xz && command -v cpio && command -v depmod && command -v cc && command -v python3,xz-utils cpio kmod gcc libc6-dev python3)
	$(GO) run ./tools/kernels -only '$(KERNELS)' -accel '$(ACCEL)'

$(BENCHSTAT): tools/deps/benchstat/go.mod tools/deps/benchstat/go.sum
	@mkdir -p $(@D)
	@cd $(<D) && $(GO) build -trimpath -o $(CURDIR)/$@ golang.org/x/perf/cmd/benchstat
	@touch $@

.PHONY: bench
bench: root build $(BENCHSTAT) ## each path against its limit: a table of wanted and measured, in 4 minutes; ONLY=connect,ring for some
	@mkdir -p .cache/bench
	@CGO_ENABLED=0 $(GO) build -trimpath -o .cache/bin/bench ./tools/bench
	@raw=.cache/bench/$$(date -u +%Y%m%dT%H%M%SZ); \
	  .cache/bin/bench -raw $$raw.txt -only '$(ONLY)' | tee $$raw.table; \
	  echo; $(BENCHSTAT) $$raw.txt; echo "raw samples: $$raw.txt"

.PHONY: bench-packages
bench-packages: root go ## the packages' own benchmarks, COUNT (6) times; raw output is kept in .cache/bench
	@mkdir -p .cache/bench
	$(GO) test -p 1 -run '^$$' -bench . -benchmem -count $(COUNT) -timeout 60m $(PACKAGES) | \
	  tee .cache/bench/$$(date -u +%Y%m%dT%H%M%SZ)-packages.txt

.PHONY: verify
verify: root lint check-generate test-unit test ## all that must hold before a commit is shared

.PHONY: demo
demo: root go ## three Consul servers, Envoys, failures and a live table; KEEP=1 leaves it running
	@echo "==> building lictord, lictor and the demo (two minutes the first time)"
	@$(MAKE) --no-print-directory -s build parts
	@CGO_ENABLED=0 $(GO) build -trimpath -o .cache/bin/demo ./tools/demo
	@KEEP=$(KEEP) exec .cache/bin/demo

.PHONY: clean
clean: ## remove what was built; Consul, Envoy and the linter stay in .cache/bin
	rm -rf bin .cache/generate .cache/bench

.PHONY: distclean
distclean: clean ## remove .cache too
	rm -rf .cache
