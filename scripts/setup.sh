#!/usr/bin/env bash
# Makes .venv with the requirements and this package in it; does nothing where it already is so.
#
#   bash scripts/setup.sh          what training and sampling need
#   bash scripts/setup.sh test     the test tools too
#
# PYTHON=python3.12 chooses the interpreter (3.11 or newer). The JAX wheels follow the NVIDIA
# driver where nvidia-smi answers and are CPU wheels otherwise; MOTFM_JAX=cpu|cuda12|cuda13 decides
# instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools=${1:-}
venv=.venv
log=$venv/setup.log
stamp=$venv/setup.stamp

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate candidates=(python3 python3.13 python3.12 python3.11 python)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if is_recent "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer among: ${candidates[*]}" \
        "the first says: $("${candidates[0]}" --version 2>&1 | head -n 1 || true)" \
        "install one and name it: PYTHON=/path/to/python3.12 bash scripts/setup.sh"
}

make_venv() {
    local python
    if is_recent $venv/bin/python && $venv/bin/python -m pip --version >/dev/null 2>&1; then
        [[ -n ${PYTHON:-} && $("$PYTHON" --version 2>&1) != $($venv/bin/python --version) ]] || return 0
    fi
    python=$(find_python)
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$("$python" --version) cannot make virtual environments (venv or ensurepip missing)" \
            "on Debian and Ubuntu: sudo apt install python3-venv"
    echo "setup: making $venv with $("$python" --version)"
    "$python" -m venv --clear $venv || fail "'$python -m venv --clear $venv' failed: see above"
}

# Which JAX wheels: CUDA 13 wants driver 580 and compute capability 7.5, CUDA 12 wants driver 525.
choose_jax() {
    local gpu driver capability
    gpu=$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null |
        head -n 1 | tr -d ' ') || true
    if [[ ! $gpu =~ ^([0-9]+)[0-9.]*,([0-9]+)\.([0-9]+)$ ]]; then
        echo cpu
        return
    fi
    driver=${BASH_REMATCH[1]} capability=$((BASH_REMATCH[2] * 10 + BASH_REMATCH[3]))
    if ((driver >= 580 && capability >= 75)); then
        echo cuda13
    elif ((driver >= 525)); then
        echo cuda12
    else
        echo "setup: NVIDIA driver $driver is older than 525, which CUDA 12 needs: CPU wheels" >&2
        echo cpu
    fi
}

install() {
    local list=requirements.txt package=. try
    [[ $jax == cpu ]] || list=requirements-$jax.txt
    [[ -z $tools ]] || package=".[$tools]"
    echo "setup: installing $list${tools:+ and the $tools tools}: some minutes the first time (log: $log)"
    for try in 1 2 3; do
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
            -r "$list" -e "$package" >"$log" 2>&1 && return
        [[ $try == 3 ]] || sleep $((5 * try))
    done
    grep -iE '^ *error|no space left' "$log" |
        sed -E 's#[a-z]+://[^ ,)]+#...#g; s/host=[^,)]*/host=.../g' | tail -n 5 >&2 || true
    fail "installing $list failed three times; the whole story is in $log" \
        "it needs a network connection, or a package index that pip is told of; then run this again"
}

case $tools in
    "" | test) ;;
    *) fail "argument '$tools': give nothing or 'test'" ;;
esac
jax=${MOTFM_JAX:-$(choose_jax)}
[[ $jax == cpu || -f requirements-$jax.txt ]] || fail "MOTFM_JAX=$jax: use cpu, cuda12 or cuda13"

make_venv
# The place is part of the stamp: a copied .venv points to where it was made.
wanted=$({
    cat requirements*.txt pyproject.toml scripts/setup.sh
    pwd
    $venv/bin/python --version
} | $venv/bin/python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
if [[ -f $stamp ]]; then
    read -r hash had_jax had_tools <"$stamp" || true
    if [[ $hash == "$wanted" && $had_jax == "$jax" ]]; then
        [[ -n $tools && $had_tools != "$tools" ]] || exit 0
    fi
fi
rm -f "$stamp"
SECONDS=0
install
$venv/bin/python - <<'PYTHON' || fail "the packages are installed but JAX does not start; see above"
import platform
import jax

devices = jax.devices()
print(f"setup: Python {platform.python_version()}, jax {jax.__version__}, "
      f"{len(devices)} x {devices[0].device_kind}")
PYTHON
echo "$wanted $jax $tools" >"$stamp"
echo "setup: done in $SECONDS s"
