PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MARK := $(VENV)/.installed

.PHONY: quickstart test test-gpu check bench install clean

quickstart: $(MARK)
	$(BIN)/medweave quickstart

# Core and offline towers. A torch that the system Python already has (a GPU image, say) is kept and used.
$(MARK): pyproject.toml constraints.txt scripts/install.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash scripts/install.sh offline
	touch $@

$(MARK)-dev: $(MARK)
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash scripts/install.sh dev
	touch $@

install: $(MARK)

test: $(MARK)-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-gpu: $(MARK)-dev
	MEDWEAVE_GPU_TESTS=1 $(BIN)/python -m pytest -m gpu

check: $(MARK)-dev
	$(BIN)/ruff check medweave tests bench scripts
	$(BIN)/ruff format --check medweave tests bench scripts
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(MARK)-dev
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build *.egg-info
