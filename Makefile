# Each command sets up what it needs; nothing has to be installed first but Python 3.11+ and make.
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-strip-extras
# Client libraries are tested from environments of their own, which also bring the Node that they need.
CLIENTS := .venv-clients
CLIENTS_OPENAI2 := .venv-clients-openai2
CLIENT_TESTS := tests/clients/python
NODE_TESTS := tests/clients/node
WITH_NODE := PATH="$(CURDIR)/$(CLIENTS)/bin:$$PATH"
# The documentation site, and the audit and bill of materials of what is installed, have tools of their own.
DOCS := .venv-docs
SUPPLY := .venv-supply
# The console's tests drive the machine's own browser.
BROWSER := .venv-browser
BROWSER_TESTS := tests/browser
# The files in deploy/ are rendered and validated with tools that nothing else needs.
DEPLOY := .venv-deploy
DEPLOY_TESTS := tests/deploy

.DEFAULT_GOAL := help
.PHONY: help run test test-clients test-browser test-deploy test-package fidelity bench-jobs bench-chat bench-waiting check audit docs settings-page sbom format lock lock-clients clean

help: ## Show these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: $(VENV)/runtime ## Serve on http://127.0.0.1:8080 with the embedded sandbox
	@$(BIN)/python -m proxy serve --sandbox

test: $(VENV)/development ## Run the tests
	$(BIN)/python -m pytest --numprocesses 6

test-clients: $(VENV)/development $(CLIENTS)/installed $(CLIENTS_OPENAI2)/installed $(NODE_TESTS)/node_modules/installed ## Test with client libraries for Python and Node
	$(WITH_NODE) $(CLIENTS)/bin/python -m pytest -c $(CLIENT_TESTS)/pytest.ini $(CLIENT_TESTS)/current $(CLIENT_TESTS)/both
	$(CLIENTS_OPENAI2)/bin/python -m pytest -c $(CLIENT_TESTS)/pytest.ini $(CLIENT_TESTS)/openai2 $(CLIENT_TESTS)/both
	cd $(NODE_TESTS) && $(WITH_NODE) npm test

test-browser: $(BROWSER)/installed ## Test the console in Chromium
	@$(BROWSER)/bin/python -m tests.browser.chromium
	$(BROWSER)/bin/python -m pytest $(BROWSER_TESTS)

test-deploy: $(DEPLOY)/installed ## Test what is in deploy/: chart, Compose file, dashboard, units
	$(DEPLOY)/bin/python -m pytest $(DEPLOY_TESTS)

test-package: $(VENV)/development ## Build the wheel and test it in an empty environment
	$(BIN)/python -m pytest tests/package

fidelity: $(VENV)/development ## Measure how exactly schemas and tool calls are carried
	$(BIN)/python -W ignore -m benchmarks.fidelity_schemas
	$(BIN)/python -m benchmarks.fidelity_calls

bench-jobs: $(VENV)/development ## Measure how soon, and at what cost, the end of jobs is noticed
	$(BIN)/python -m benchmarks.bench_jobs

bench-chat: API := chat
bench-chat: $(VENV)/development ## Measure requests a second and CPU time for each request (API=chat,responses,messages)
	$(BIN)/python -m benchmarks.bench_chat --api $(API)

bench-waiting: $(VENV)/development ## Measure what thousands of waiting requests cost
	$(BIN)/python -m benchmarks.bench_waiting

check: $(VENV)/development audit ## Format, lint, types, import rules, lock files, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	for file in requirements.txt requirements-dev.txt requirements-build.txt; do $(BIN)/python .ci/check_locks.py $$file || exit 1; done

audit: $(SUPPLY)/installed ## Look for known vulnerabilities in what is installed; passes, and says so, without network
	$(SUPPLY)/bin/python .ci/audit.py $(AUDIT) requirements.txt requirements-build.txt

docs: $(DOCS)/installed ## Build the documentation site in build/site, with every link and anchor checked
	$(DOCS)/bin/python .ci/site.py prepare build/docs
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict --clean
	$(DOCS)/bin/python .ci/site.py check build/site

settings-page: $(VENV)/runtime ## Write docs/settings.md anew from the code and config/proxy.toml
	$(BIN)/python .ci/settings_page.py

sbom: $(SUPPLY)/runtime/installed ## Write the bill of materials of the runtime (CycloneDX) to dist/sbom.cdx.json
	@mkdir -p dist
	$(SUPPLY)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
		--output-reproducible --spec-version 1.6 --output-format JSON --output-file dist/sbom.cdx.json $(SUPPLY)/runtime/bin/python

format: $(VENV)/development ## Format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/development ## Make the lock files anew from pyproject.toml
	$(COMPILE) pyproject.toml --extra otel --output-file requirements.txt
	$(COMPILE) pyproject.toml --extra otel --group dev --output-file requirements-dev.txt
	$(COMPILE) --group build -c requirements-dev.txt --output-file requirements-build.txt
	$(COMPILE) $(BROWSER_TESTS)/requirements.in -c requirements-dev.txt --output-file requirements-browser.txt
	$(COMPILE) $(DEPLOY_TESTS)/requirements.in -c requirements-dev.txt --output-file requirements-deploy.txt
	$(COMPILE) --group docs --output-file requirements-docs.txt
	$(COMPILE) --group supply --output-file requirements-supply.txt

lock-clients: $(VENV)/development $(CLIENTS)/installed ## Make the clients' lock files anew, at their current releases
	$(COMPILE) --upgrade $(CLIENT_TESTS)/current/requirements.in --output-file requirements-clients.txt
	$(COMPILE) --upgrade $(CLIENT_TESTS)/openai2/requirements.in --output-file requirements-clients-openai2.txt
	cd $(NODE_TESTS) && $(WITH_NODE) npm install --package-lock-only
	$(BIN)/python -c "import json, pathlib; file = pathlib.Path('$(NODE_TESTS)/package-lock.json'); lock = json.loads(file.read_text()); \
		[package.pop('funding', None) for package in lock['packages'].values()]; file.write_text(json.dumps(lock, indent=2) + chr(10))"

clean: ## Remove everything that was made here
	rm -rf $(VENV) $(BROWSER) $(DEPLOY) $(DOCS) $(SUPPLY) build dist $(CLIENTS) $(CLIENTS_OPENAI2) $(NODE_TESTS)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found; set PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "Could not make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/runtime: requirements.txt | $(BIN)/python
	$(BIN)/python $(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/development: requirements-dev.txt | $(BIN)/python
	$(BIN)/python $(PIP_INSTALL) -r requirements-dev.txt
	@touch $@ $(VENV)/runtime

$(BROWSER)/installed: requirements-dev.txt requirements-browser.txt
	$(call install_apart,$(BROWSER),$^)
	@touch $@

$(DEPLOY)/installed: requirements-dev.txt requirements-deploy.txt $(DEPLOY_TESTS)/helm.txt
	$(call install_apart,$(DEPLOY),$(filter requirements%,$^))
	$(DEPLOY)/bin/python $(PIP_INSTALL) --no-deps --ignore-requires-python -r $(DEPLOY_TESTS)/helm.txt
	@touch $@

$(CLIENTS)/installed: requirements-clients.txt
	$(call install_apart,$(CLIENTS),$^)
	@touch $@

$(CLIENTS_OPENAI2)/installed: requirements-clients-openai2.txt
	$(call install_apart,$(CLIENTS_OPENAI2),$^)
	@touch $@

$(DOCS)/installed: requirements-docs.txt
	$(call install_apart,$(DOCS),$^)
	@touch $@

$(SUPPLY)/installed: requirements-supply.txt
	$(call install_apart,$(SUPPLY),$^)
	@touch $@

# The runtime's packages alone, without pip: what the bill of materials lists.
$(SUPPLY)/runtime/installed: requirements.txt $(VENV)/development $(SUPPLY)/installed
	rm -rf $(@D)
	$(PYTHON) -m venv --without-pip $(@D)
	$(BIN)/uv pip install --quiet --python $(@D)/bin/python --require-hashes -r requirements.txt
	@touch $@

$(NODE_TESTS)/node_modules/installed: $(NODE_TESTS)/package-lock.json $(CLIENTS)/installed
	cd $(NODE_TESTS) && $(WITH_NODE) npm ci --no-progress
	@touch $@

# An environment of its own ($1) with lock files that are installed together ($2).
define install_apart
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python $(PIP_INSTALL) $(addprefix -r ,$(2))
	$(1)/bin/python .ci/check_locks.py $(2)
endef
