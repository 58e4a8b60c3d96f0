#!/usr/bin/env bash
# Sets up what compiles programs for an NVIDIA card on a machine without one. Needs a network, gcc,
# strings and 5 GB.
#
#   bash tests/aot/setup.sh                      into ~/.cache/motfm-aot
#   MOTFM_AOT=FOLDER bash tests/aot/setup.sh     into FOLDER
#
# PYTHON=python3.13 chooses the interpreter.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${MOTFM_AOT:-$HOME/.cache/motfm-aot}
mkdir -p "$home"
cd "$home"

[[ -x venv/bin/python ]] || "${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q "jax[cuda13]==0.12.0.1" -r "$here/../../requirements.txt"
# This XLA plans attention with cuDNN 9.23 and later; 9.28.1 refuses its description of a card.
venv/bin/pip install -q --no-deps --target cudnn nvidia-cudnn-cu13==9.23.2.1
libraries=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/nvidia
if [[ ! -L $libraries/cudnn ]]; then
    mv "$libraries/cudnn" "$libraries/cudnn.newest"
    ln -s "$home/cudnn/nvidia/cudnn" "$libraries/cudnn"
fi
venv/bin/python "$here/stub.py" cudnn/nvidia/cudnn/lib stub
echo "ready: $home/venv/bin/python $here/programs.py --out=$home/out brain_sample:1"
