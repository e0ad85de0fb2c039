#!/usr/bin/env bash
# The one gate: what CI runs is what a developer runs.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
ruff format --check .
ruff check .
lint-imports --no-cache
pyright
python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
  --cov --cov-report=term:skip-covered "$@"
