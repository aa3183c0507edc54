# Everything is installed into .venv/ of this checkout, at the versions in constraints.txt.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
READY := .venv/.ready
CORRECTED := build/openapi.json

.DEFAULT_GOAL := help
.PHONY: help demo generate drift lint types test check bench clean

help:  ## Show this list
	@awk -F ':.*##' '/^[a-z]+:.*##/ {printf "  make %-9s%s\n", $$1, $$2}' Makefile

demo: $(READY)  ## Fetch the vendor's example task from the embedded server
	@python examples/demo.py

generate: $(CORRECTED)  ## Make generated/ anew from openapi.yaml
	$(call make_client,build/new)
	@rm -rf build/old && mv generated build/old && mv build/new generated

drift: $(CORRECTED)  ## Fail if generated/ is not exactly what openapi.yaml yields
	$(call make_client,build/drift)
	@diff --recursive --exclude __pycache__ generated build/drift

lint: $(READY)  ## Check style and format
	@ruff check
	@ruff format --check

types: $(READY)  ## Check types, with mypy and pyright in their strict modes
	@mypy
	@basedpyright

test: $(READY)  ## Run the tests
	@pytest

check: drift lint types test  ## Everything that CI runs

bench: $(READY)  ## Measure against plain httpx, the generated client and runwayml
	@python benchmarks/fetch.py
	@python benchmarks/footprint.py

clean:  ## Remove all that was installed or built here
	@rm -rf .venv build

# Writes a client from the corrected document into the folder $(1), or stops.
define make_client
	@rm -rf $(1)
	@openapi-python-client generate --path $(CORRECTED) --config generator-config.yml --meta none \
		--output-path $(1)/anyapi_midjourney_generated --fail-on-warning
endef

# Laid on anew each time: what made a file older or newer is not this Makefile's to know.
.PHONY: $(CORRECTED)
$(CORRECTED): $(READY)
	@mkdir -p build
	@python overlays/apply_overlay.py openapi.yaml overlays/openapi.overlay.yaml $@

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -m venv .venv
	@pip install --quiet --constraint constraints.txt pip
	@pip install --quiet --constraint constraints.txt --editable '.[sandbox]' --group dev
	@touch $@
