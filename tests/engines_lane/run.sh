#!/usr/bin/env bash
# Runs agent plans against real engines on loopback: `transformers serve` with a tiny model made here. No GPU.
#
# usage: run.sh VENV PYTHON [pytest options]
# VENV is for the engines and made if it is not there; PYTHON runs newel and pytest.
# Installs about 1.3 GB once. ENGINE_PYTHON chooses the interpreter of VENV; TORCH_INDEX an index of packages
# with a CPU build of torch, such as https://download.pytorch.org/whl/cpu
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
venv="${1:-$root/.venv-engines}"
python="${2:-python3}"

if [ ! -e "$venv/.ready" ]; then
  engine_python="${ENGINE_PYTHON:-$(command -v python3.11 || command -v python3)}"
  "$engine_python" -m venv "$venv"
  "$venv/bin/pip" install -q ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    "torch==2.13.*" "transformers[serving]==5.23.*" accelerate
  touch "$venv/.ready"
fi
model="$venv/scripted"
if [ ! -e "$model/config.json" ] || [ "$here/make_model.py" -nt "$model/config.json" ]; then
  "$venv/bin/python" "$here/make_model.py" "$model"
fi

export NEWEL_ENGINE="$venv/bin/transformers" NEWEL_ENGINE_MODEL="$model"
cd "$root"
exec "$python" -m pytest -s -p no:cacheprovider tests/engines_lane "${@:3}"
