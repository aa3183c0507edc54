# Everything is installed into .venv/ of this checkout, at the versions in constraints.txt.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo generate drift lint types test coverage docs dist check bench look clean

help:  ## Show this list
	@awk -F ':.*##' '/^[a-z]+:.*##/ {printf "  make %-9s%s\n", $$1, $$2}' Makefile

demo: $(READY)  ## Submit a prompt to the embedded server, press U2, and save and show both pictures
	@rm -rf build/demo
	@python examples/demo.py

generate: $(READY)  ## Make generated/ again from openapi.yaml
	@python overlays/generate.py

drift: $(READY)  ## Fail if generated/ is not exactly what openapi.yaml yields
	@python overlays/generate.py --check

lint: $(READY)  ## Check style and format
	@ruff check
	@ruff format --check

types: $(READY)  ## Check types, with mypy and pyright in their strict modes
	@mypy & basedpyright; code=$$?; wait $$! && exit $$code

test: $(READY)  ## Run the tests
	@pytest -n 4  # more than cores: some tests sleep

coverage: $(READY)  ## Run the tests, and fail if they miss more than 5 % of the package's branches
	@pytest -n 4 --cov --cov-report=term

docs: $(READY)  ## Make build/site, of the pages and the API, and the picture of the README
	@python tests/terminal.py docs/demo.svg
	@rm -rf build/pages build/site && mkdir -p build/pages
	@cp -r *.md LICENSE docs benchmarks examples build/pages
	@zensical build --clean --strict

dist: $(READY)  ## Build dist/, check it, and run what the wheel installs
	@rm -rf dist build/wheel && mkdir -p build
	@python -m build --no-isolation --outdir dist >build/dist.log 2>&1 || (cat build/dist.log && false)
	@check-wheel-contents dist/*.whl
	@pip install --quiet --no-deps --target build/wheel dist/*.whl
	@cd build/wheel && PYTHONPATH=. bin/anyapi-midjourney fetch 1730621826053455 --sandbox --quiet

check: drift lint types dist test  ## Everything that CI runs (the tests make the docs)

bench: $(READY)  ## Measure against plain httpx, the generated client, runwayml and others (ten minutes)
	@python benchmarks/fetch.py
	@python benchmarks/footprint.py
	@python benchmarks/waiting.py

look: docs  ## Take pictures of cards, terminals and the site in build/look, and check them; needs Chromium
	@python tests/look.py

clean:  ## Remove all that was installed, built or cached here
	@rm -rf .venv build dist .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -prune -exec rm -r {} +

$(READY): pyproject.toml constraints.txt
	@echo "Installing what this needs into .venv/ (once, about a minute)"
	@$(PYTHON) -m venv .venv
	@pip install --quiet --constraint constraints.txt pip
	@pip install --quiet --constraint constraints.txt --editable '.[cli,sandbox,show,socks]' --group dev
	@env -u PYTHONDONTWRITEBYTECODE python -m compileall -q overlays generated  # as an installation does
	@touch $@
