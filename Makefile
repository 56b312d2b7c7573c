# One virtual environment, made from the lock by plain venv and pip: no other tool has to be there.
# It is thrown away and made again whenever the lock changes, so that nothing unlocked stays behind in it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
LOCK_FLAGS := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock"
LOCALE := services/gateway/locale
TRANSLATED := nl fr de lb

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run demo demo-real test check catalogues pictures bench faults frontend frontend-check up down lock

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/haven.stamp ## Set everything up and serve the embedded node with a demo login for each role
	@$(BIN)/haven run

demo: $(VENV)/haven.stamp ## Play one cross-border relocation through the real HTTP API and print its timeline
	@$(BIN)/haven demo

demo-real: $(VENV)/haven.stamp ## Play the same on real Kafka, PostgreSQL and Keycloak, started and stopped for it
	@$(BIN)/python -m deploy.demo

test: $(VENV)/haven.stamp ## Run all tests (ARGS="-k hold" passes options to pytest)
	@echo "haven: running the tests"
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: $(VENV)/haven.stamp ## Check format, lint, types, spelling and architecture
	@echo "haven: format"
	@$(BIN)/ruff format --check .
	@echo "haven: lint"
	@$(BIN)/ruff check .
	@echo "haven: types"
	@$(BIN)/mypy
	@echo "haven: spelling"
	@$(BIN)/codespell
	@echo "haven: architecture and repository rules"
	@$(BIN)/python -m pytest --quiet -n0 tests/test_architecture.py tests/test_repository.py

catalogues: $(VENV)/haven.stamp ## Collect the texts of the pages into the catalogues of every language
	@$(BIN)/pybabel --quiet extract --mapping-file $(LOCALE)/babel.cfg --no-default-keywords \
		--keywords "_ gettext mark ngettext:1,2" --add-location file --no-wrap --omit-header \
		--output-file $(LOCALE)/haven.pot services/gateway/pages services/gateway/templates
	@for language in $(TRANSLATED); do \
		$(BIN)/pybabel --quiet update --input-file $(LOCALE)/haven.pot --output-file $(LOCALE)/$$language.po \
			--locale $$language --init-missing --no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date \
			--no-wrap || exit 1; \
	done

pictures: $(VENV)/haven.stamp ## Take the pictures of the README anew (needs chromium), then look at them
	@HAVEN_TEST_PICTURES=take $(BIN)/python -m pytest --quiet -n0 tests/real/test_readme_pictures.py

bench: $(VENV)/haven.stamp ## Measure against the anchors, print a table and write build/bench.json
	@mkdir -p build
	@$(BIN)/python -m bench

faults: $(VENV)/haven.stamp ## Kill, freeze and duplicate everything under load; write build/faults.json (ARGS="--runs full")
	@mkdir -p build
	@$(BIN)/python -m faults $(ARGS)

frontend: frontend/node_modules/.package-lock.json ## Build the pages' styles and scripts again (needs node and npm)
	@node frontend/build.mjs

frontend-check: frontend/node_modules/.package-lock.json ## Compare the pages' styles and scripts with a fresh build
	@echo "haven: styles and scripts"
	@node frontend/build.mjs build/frontend
	@diff --recursive --brief services/gateway/static build/frontend || { \
		echo "haven: services/gateway/static is not what frontend/ builds: run 'make frontend'" >&2; exit 1; }

frontend/node_modules/.package-lock.json: frontend/package-lock.json
	@{ command -v node && command -v npm; } >/dev/null || { \
		echo "haven: the styles and scripts of the pages are built with node (20.19 or newer) and npm, and one of them is not here." \
			"Only who changes frontend/ needs them: Haven runs, and is tested, without" >&2; exit 1; }
	@echo "haven: installing the locked packages of frontend/, each checked against its hash"
	@npm ci --prefix frontend --silent --ignore-scripts
	@touch $@

up: ## Start the node in Docker and wait until it is healthy
	docker compose --profile embedded up --build --detach --wait

down: ## Stop the node in Docker; its data volume stays
	docker compose --profile '*' down

lock: ## Resolve dependencies again and write both locks (needs uv)
	@command -v uv >/dev/null || { echo "haven: 'make lock' needs uv, see CONTRIBUTING.md" >&2; exit 1; }
	uv pip compile pyproject.toml --group build $(LOCK_FLAGS) --output-file requirements.lock
	uv pip compile pyproject.toml --group build --group dev --constraint requirements.lock $(LOCK_FLAGS) \
		--output-file requirements-dev.lock

$(VENV)/lock.stamp: requirements-dev.lock
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "haven: '$(PYTHON)' was not found. Install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "haven: needs Python 3.11 or newer, '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1)." \
			"Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "haven: making $(VENV) with $$("$(PYTHON)" --version)"
	@rm -rf $(VENV)
	@"$(PYTHON)" -m venv $(VENV) || { \
		echo "haven: this Python cannot make a virtual environment (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "haven: installing the locked packages, each checked against its hash (about half a minute, only once)"
	@$(PIP) install --require-hashes --only-binary :all: --requirement requirements-dev.lock
	@touch $@

$(VENV)/haven.stamp: $(VENV)/lock.stamp pyproject.toml
	@echo "haven: installing haven itself"
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@$(PIP) check >/dev/null || { echo "haven: the locks are older than pyproject.toml: run 'make lock'" >&2; exit 1; }
	@touch $@
