# What is built and run here. `make help` lists the targets.
#   PYTHON=…       the interpreter to work with (3.11 or newer); Debian's own first, since every user can run it
#   PRIVBIND_WHEEL=…  tests use this wheel instead of building one
#   SUITE=…        which Debian `make deb` builds for: bookworm (unless given) or trixie
#   KERNELS=…      which kernels `make test-kernels` starts: "6.1", "6.1-arm64", "5.10,newest"; all unless given
#   PYTEST=…       more arguments for pytest, for instance PYTEST='-k http -x'

PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
PYTEST ?=
export PYTHON

VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src preload launcher man packaging -name build -prune -o -name __pycache__ -prune -o -type f -print)
SHELL_FILES := .ci/run tools/setup tools/demo tools/release launcher/privbind.sh.in packaging/openrc/privbind \
	$(wildcard packaging/debian/privbind.p*) packaging/debian/tests/server \
	$(shell find launcher preload completions packaging tools tests \
	-name build -prune -o \( -name '*.sh' -o -name '*.bash' \) -print)
C_FILES := $(shell find preload launcher tests/programs -name build -prune -o -name '*.[ch]' -print)

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

.PHONY: demo
demo: demo-set-up wheel ## real servers on port 80, by a launch and by a standing grant (as root; installs what is missing)
	@tools/demo

.PHONY: demo-set-up
demo-set-up:
	@tools/setup demo

# Each part of the tests has a time of its own (tools/parts.py), and the last line says how many passed, failed, were skipped.
PARTS := c unit root python standing containers kernels packaging
RUN_PARTS = $(BIN)/python tools/parts.py

.PHONY: test
test: test-set-up $(BIN)/.test wheel ## all tests (as root; installs what is missing)
	@$(RUN_PARTS) $(PARTS) -- $(PYTEST)

# Measuring costs a few percent of the time: how it is done is in tests/harness/measure.py.
coverage ci: export PRIVBIND_COVERAGE := $(CURDIR)/build/coverage

.PHONY: coverage
coverage: test-set-up $(BIN)/.test wheel ## all tests, and which lines of the installed package they run (as root)
	@$(RUN_PARTS) $(filter-out c,$(PARTS)) -- $(PYTEST)

.PHONY: ci
ci: test-set-up $(BIN)/.lint wheel ## lint and all tests: what CI does
	@$(RUN_PARTS) lint $(PARTS)

.PHONY: test-all
test-all: export PRIVBIND_TEST_LONG := 1
test-all: test ## the same with more examples and more rounds (takes long)

.PHONY: test-set-up
test-set-up:
	@tools/setup test

.PHONY: test-unit
test-unit: $(BIN)/.test ## tests that need no root, in seconds
	@$(RUN_PARTS) unit -- $(PYTEST)

.PHONY: test-root
test-root: $(BIN)/.test wheel ## tests of the installed command, each in a network namespace of its own (as root)
	@$(RUN_PARTS) root -- $(PYTEST)

.PHONY: test-python
test-python: $(BIN)/.test wheel ## tests of the Python API, with the servers of docs/python.md (as root)
	@$(RUN_PARTS) python -- $(PYTEST)

.PHONY: test-standing
test-standing: $(BIN)/.test wheel ## tests of standing and placed grants, explain and watch (as root)
	@$(RUN_PARTS) standing -- $(PYTEST)

.PHONY: test-containers
test-containers: $(BIN)/.test wheel ## tests in and of containers (as root)
	@$(RUN_PARTS) containers -- $(PYTEST)

.PHONY: test-kernels
test-kernels: test-kernels-set-up $(BIN)/.test wheel ## tests under Debian's kernels, in guests of qemu (as root; KERNELS=6.1 picks one series)
	@KERNELS=$(or $(KERNELS),all) PRIVBIND_KERNELS_PAGE=$(CURDIR)/docs/kernels.md $(RUN_PARTS) kernels -- $(PYTEST)

.PHONY: test-kernels-set-up
test-kernels-set-up:
	@tools/setup kernels

.PHONY: test-packaging
test-packaging: $(BIN)/.test wheel ## tests of installing it: pip, pipx, editable, without a compiler (as root)
	@$(RUN_PARTS) packaging -- $(PYTEST)

.PHONY: test-c
test-c: ## tests in C of the shim (sanitizers, musl, aarch64 under qemu) and of the launcher
	$(MAKE) -C preload check check-musl check-aarch64
	$(MAKE) -C launcher check

.PHONY: bench
bench: $(BIN)/.test wheel ## ratios against root's own bind, authbind and the bare interpreter (as root)
	$(BIN)/python bench/run.py

.PHONY: lint
lint: $(BIN)/.lint ## ruff, mypy, clang-format, shellcheck and zizmor; changes nothing
	@tools/setup lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python tools/examples.py docs/python.md build/examples
	$(BIN)/ruff format --check build/examples
	MYPYPATH=src:tests/servers $(BIN)/mypy --config-file= --cache-dir=.mypy_cache/examples --strict \
		--python-version 3.11 --follow-imports=silent --ignore-missing-imports --allow-subclassing-any \
		--allow-untyped-decorators build/examples/*.py
	clang-format --dry-run --Werror $(C_FILES)
	shellcheck $(SHELL_FILES)
	$(BIN)/zizmor --offline --quiet --persona=auditor .github/workflows

.PHONY: format
format: $(BIN)/.lint ## put all sources into their form
	@tools/setup lint
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format
	clang-format -i $(C_FILES)

.PHONY: wheel
wheel: dist/.made ## the wheel, alone in dist/

# Anew when a source has changed. A wheel without a shim is for others to make: here the compiler must be there.
dist/.made: $(BIN)/.build $(SOURCES) hatch_build.py pyproject.toml README.md LICENSE
	@rm -rf build/wheel && mkdir -p dist
	PRIVBIND_REQUIRE_COMPILER=1 $(BIN)/python -m hatchling build --target wheel --directory build/wheel
	@find dist -maxdepth 1 -name '*.whl' ! -name "$$(ls build/wheel)" -delete && mv build/wheel/*.whl dist/
	@touch $@

.PHONY: dist
dist: dist-set-up $(BIN)/.dist ## what a package index gets: sdist, wheels for two architectures and C libraries, checked
	@$(BIN)/python tools/dist.py dist/release

.PHONY: dist-set-up
dist-set-up:
	@tools/setup dist

.PHONY: deb
deb: deb-set-up $(BIN)/.build ## the Debian package, built in a clean Debian (as root; SUITE=trixie for that one)
	@PYTHONPATH=tools $(BIN)/python -m deb.build $(or $(SUITE),bookworm)

.PHONY: deb-set-up
deb-set-up:
	@tools/setup deb

# What each part needs, in one virtual environment: the groups of pyproject.toml, in the versions that tools/locked has.
LOCKED := tools/locked
GROUPS := build dist test lint lock
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
	--requirement $<

$(BIN)/.build: $(LOCKED)/build.txt
	@tools/setup build
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(install)
	@touch $@

$(BIN)/.dist $(BIN)/.test $(BIN)/.lint $(BIN)/.lock: $(BIN)/.%: $(LOCKED)/%.txt $(BIN)/.build
	@$(install)
	@touch $@

# Each file serves every Python from 3.11 on, on every machine. Other tools can be locked than those locked now only by
# this, so that a change of theirs is a change here.
.PHONY: lock
lock: $(BIN)/.lock ## the newest versions of all tools, into tools/locked
	@$(foreach group,lint $(filter-out lint,$(GROUPS)),$(BIN)/uv pip compile --quiet --no-config --upgrade --universal \
		--python-version 3.11 --only-binary :all: --generate-hashes --custom-compile-command 'make lock' \
		--group $(group) $(if $(filter build dist test,$(group)),--constraints $(LOCKED)/lint.txt) \
		--output-file $(LOCKED)/$(group).txt &&) true

.PHONY: clean
clean: ## remove what was built and set up
	rm -rf $(VENV) dist build src/privbind/_preload .pytest_cache .mypy_cache .ruff_cache .hypothesis
	$(MAKE) -C preload clean
	$(MAKE) -C launcher clean
