# make run: the demo, one complete call. make test: every check there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Everything but the interop tests, which have a runner of their own.
ROOMS := $(filter-out tests.interop tests.benchmarks tests.__init__,$(subst /,.,$(patsubst %/,%,$(wildcard tests/*/)) $(basename $(wildcard tests/test_*.py))))

.PHONY: run test lint format bench debian browser openapi deb clean

run: $(READY)
	@$(BIN)/calledin demo

test: debian browser openapi $(READY) lint
	$(BIN)/coverage run -m twisted.trial --temp-directory=$(VENV)/trial $(ROOMS)
	$(BIN)/coverage report
	$(BIN)/coverage report --include='calledind/sip/*,calledind/sdp.py,calledind/description.py,calledind/sdes.py,calledind/rtp/*' --fail-under=100
	$(BIN)/python -m tests.interop

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: debian browser $(READY)
	$(BIN)/python -m tests.benchmarks

# A Debian package, build/calledin_VERSION_ARCHITECTURE.deb, for the release of Debian that this is.
deb: $(READY)
	@sh etc/debian/build $(BIN)/pip

# The other ends of the interop tests; where they can't be installed, those tests say what they skip.
debian:
	@sh tests/debian-packages

# What drives Chromium in the interop tests; without npm, or a registry, those tests say what they skip.
browser: tests/browser/node_modules/.package-lock.json

tests/browser/node_modules/.package-lock.json: tests/browser/package-lock.json
	@! command -v npm >/dev/null || (cd tests/browser && npm ci --ignore-scripts --no-audit --no-fund --silent) || \
		echo "npm could not install what drives the browser; its tests will be skipped"

# What reads /openapi.json and asks by it, in an environment of its own: it needs forty packages that nothing else does.
openapi: $(VENV)/openapi/.ready

$(VENV)/openapi/.ready: $(READY)
	$(PYTHON) -m venv $(VENV)/openapi
	$(VENV)/openapi/bin/pip install --quiet --disable-pip-version-check 'schemathesis>=4.32,<5' 'openapi-spec-validator>=0.9,<1' && touch $@ || \
		echo "pip could not install what reads /openapi.json; its tests will be skipped"

$(READY): setup.py Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "calledin needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info tests/browser/node_modules .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
