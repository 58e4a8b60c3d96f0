#!/usr/bin/env bash
# Compiles the programs that a GPU would run, on a machine without one.
#
#   bash tests/aot/setup.sh                                             once
#   bash tests/aot/compile.sh --out=FOLDER camus_train:8 brain_sample:1
#   XLA_FLAGS=--xla_gpu_force_conv_nhwc=false bash tests/aot/compile.sh ...
#
# programs.py, which it calls, says what the arguments are.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${MOTFM_AOT:-$HOME/.cache/motfm-aot}
flags=(
    --xla_gpu_autotune_level=0 # there is nothing to time
    --xla_gpu_enable_triton_gemm=false
    --xla_gpu_cudnn_deviceless_compilation_mode=CUDNN_DEVICELESS_COMPILATION_ALWAYS
    --xla_gpu_force_conv_nhwc=true # as motfm_jax/io/xla_flags.py sets it
)
export JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=1 LD_LIBRARY_PATH=$home/stub
export XLA_FLAGS="${flags[*]} ${XLA_FLAGS:-}" PYTHONPATH=$here/../..
exec "$home/venv/bin/python" "$here/programs.py" "$@"
