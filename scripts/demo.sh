#!/usr/bin/env bash
# Sets up what is missing, then trains on simulated echocardiograms, samples, and draws: runs/demo/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
exec .venv/bin/python scripts/demo.py "$@"
