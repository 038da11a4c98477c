#!/usr/bin/env bash
# Holds the cost sources that ask AIConfigurator against the real packages.
#
# usage: run.sh [VENV] [pytest options]     (default: .venv-aiconfigurator)
# Installs about 700 MB once. PYTHON chooses the interpreter. AIConfigurator's own planner
# (`aiconfigurator`) is only needed to compare plans; Newel asks `aiconfigurator-core` alone.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
venv="${1:-$root/.venv-aiconfigurator}"

if [ ! -e "$venv/.ready" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install -q --constraint "$root/requirements.lock" --editable "$root[dev,aiconfigurator]"
  "$venv/bin/pip" install -q "aiconfigurator==0.12.*"
  touch "$venv/.ready"
fi
cd "$root"
exec "$venv/bin/python" -m pytest -W ignore -p no:cacheprovider tests/aiconfigurator_lane "${@:2}"
