# `make demo` and `make test` set up a private environment first; nothing outside this folder changes.
# `make test ALL=1` adds what needs torch (the family zoo) and Rockchip's SDK (installed by onchip).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ALL ?=
export ONCHIP_TOOLCHAINS ?= $(CURDIR)/$(VENV)/toolchains

.PHONY: demo test check docs clean

demo: $(VENV)/.core
	$(BIN)/onchip demo -o onchip-demo

test: $(VENV)/.test $(if $(ALL),$(VENV)/.zoo $(VENV)/.rknn) check docs
	$(BIN)/python -m pytest -n 2 $(if $(ALL),,-m "not zoo and not rknn")

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.test
	$(BIN)/mkdocs build --strict --quiet

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable ".[test,docs]"
	touch $@

$(VENV)/.zoo: $(VENV)/.test tests/zoo-requirements.txt
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -r tests/zoo-requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps ultralytics==8.4.190 ultralytics-thop==2.2.3
	touch $@

$(VENV)/.rknn: $(VENV)/.core src/onchip/toolchains/pins.toml
	$(BIN)/onchip toolchain install rknn
	touch $@

clean:
	rm -rf $(VENV) site onchip-demo
