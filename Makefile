# The newcomer's two: `make demo` and `make test`. Both do all the set-up, in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
QUICK  ?=

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: help demo test test-slow test-system test-arm deb deb-torch lint format docs bench clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit("Argosy needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# the stamps say what is installed; they are renewed when the requirements change
$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing Argosy and the examples' needs into $(VENV) (a minute or two) …"
	$(PIP) --editable '.[server,client,provisioning,inference,export,examples]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing Argosy and the developers' tools into $(VENV) (a minute or two) …"
	$(PIP) --editable '.[server,postgres,client,provisioning,inference,export,examples,dev]'
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run ## ten devices on this machine learn to recognise human activity together
	$(BIN)/python -m examples.har.demo

# real recordings for the tests that train on them; without a network those are skipped by name
.demo/data/manifest.json: | $(VENV)/.dev
	-$(BIN)/python examples/har/prepare.py .demo/data

test: $(VENV)/.dev .demo/data/manifest.json ## the default test suite (under 8 minutes on two cores)
	$(BIN)/pytest -m "not slow" -n 3 --dist worksteal

test-slow: $(VENV)/.dev .demo/data/manifest.json ## the longer tests, but for those of test-system and test-arm
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest -m slow --timeout 900 --ignore tests/system/booted --ignore tests/system/emulated

test-system: $(VENV)/.dev ## the packages on a system with its own systemd; needs root, debootstrap, and Debian's mirror once
	$(BIN)/pytest tests/system/booted --timeout 900 -s

test-arm: $(VENV)/.dev ## the device daemon in an emulated arm64 system; needs root, debootstrap, qemu-user-static
	$(BIN)/pytest tests/system/emulated --timeout 900 -s

deb: $(VENV)/.dev ## the Debian packages, libraries for amd64 and arm64 included, into dist/
	$(BIN)/python packaging/deb/build_debs.py code runtime

deb-torch: $(VENV)/.dev ## the package with PyTorch, into dist/; ARCH=arm64 for a Raspberry Pi alone
	$(BIN)/python packaging/deb/build_debs.py torch $(if $(ARCH),--arch $(ARCH))

lint: $(VENV)/.dev ## ruff, mypy --strict, the layers, and that the generated pages of docs/ are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m argosy_common.errors | diff -u docs/errors.md -
	$(BIN)/python -m docs.state_machines | diff -u docs/state-machines.md -

format: $(VENV)/.dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev ## make docs/errors.md and docs/state-machines.md from the tables in code
	$(BIN)/python -m argosy_common.errors > docs/errors.md
	$(BIN)/python -m docs.state_machines > docs/state-machines.md

bench: $(VENV)/.dev ## every benchmark; QUICK=--quick for the short form
	$(BIN)/python -m benchmarks.codec $(QUICK)
	$(BIN)/python -m benchmarks.transfer $(QUICK)
	$(BIN)/python -m benchmarks.round_overhead $(QUICK)
	$(BIN)/python -m benchmarks.compressed_run $(QUICK)
	$(BIN)/python -m benchmarks.secure $(QUICK)
	$(BIN)/python -m benchmarks.straggler $(QUICK)
	$(BIN)/python -m benchmarks.inference $(QUICK)
	$(BIN)/python -m benchmarks.survive $(QUICK)

clean: ## remove everything that was made here
	rm -rf $(VENV) .demo build dist *.egg-info benchmarks/out .mypy_cache .ruff_cache .pytest_cache .hypothesis
