#!/usr/bin/env bash
# Sets up what is missing, checks style, imports and types, runs the tests.
#
#   bash scripts/test.sh                    what every change has to pass
#   bash scripts/test.sh --all              the dear tests too (nightly, and before a release)
#   bash scripts/test.sh -m "not slow"      arguments go to pytest
#   bash scripts/test.sh tests/properties --hypothesis-profile=thorough     1,000 examples each
#   JAX_PLATFORMS=cuda,cpu bash scripts/test.sh -m gpu
#
# MOTFM_DATA=FOLDER runs the tests on real data too. MOTFM_TEST_WORKERS=0 runs in one process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python .venv/bin/lint-imports --no-logo
.venv/bin/basedpyright

cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}
exec .venv/bin/python -m pytest --dist=loadfile --no-loadscope-reorder \
    -n "${MOTFM_TEST_WORKERS:-$((cores < 8 ? cores : 8))}" "$@"
