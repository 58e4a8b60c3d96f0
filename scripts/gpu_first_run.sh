#!/usr/bin/env bash
# Measures everything on a CUDA card, in at most nine minutes: see scripts/gpu_first_run.py.
#
#   bash scripts/gpu_first_run.sh --out=first_run
#   bash scripts/gpu_first_run.sh --out=rehearsal --rehearse     every step on a CPU, tiny
#
# Without a network: put the wheels of requirements-cuda13.txt and the test tools into wheels/ before
# (pip download). MOTFM_DATA=FOLDER, with camus/ in it, has it train on CAMUS; else on simulated scans.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

began=$(date +%s)
[[ ! -d wheels ]] || export PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheels
bash scripts/setup.sh test
exec .venv/bin/python scripts/gpu_first_run.py --spent=$(($(date +%s) - began)) "$@"
