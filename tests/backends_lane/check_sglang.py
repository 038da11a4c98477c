"""Feeds every exported launch through SGLang's own parser and argument checks, without a GPU.

Runs in the virtual environment of run.sh, into which the wheel of SGLang is put without its (CUDA)
dependencies; packages that only a GPU needs are stood in for while it is imported. Prints one line
per launch and leaves with 1 if any was rejected.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from launches import Case, manifest_cases, script_cases
from stand_ins import stand_in_for

from planner.backends._sglang_flags import CHOICES, FLAGS
from planner.plan.schema import Plan

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from tests.backends.plans import FOLDER, NAMES, for_engine, load  # noqa: E402

GPU_ONLY = ("torchvision", "sgl_kernel", "timm", "soundfile")
COMMAND = "python3 -m sglang.launch_server"


def server_args():
    import transformers.utils.import_utils as found

    for name in ("is_torchvision_available", "is_torchvision_v2_available"):
        if hasattr(found, name):
            getattr(found, name)()
    stand_in_for(*GPU_ONLY)
    from sglang.srt.server_args import ServerArgs

    return ServerArgs


def flag_defects(parser: argparse.ArgumentParser) -> list[str]:
    known = {s.removeprefix("--"): a for a in parser._actions for s in a.option_strings}
    found = [f"option --{flag} is unknown" for flag in FLAGS if flag not in known]
    for flag, values in CHOICES.items():
        choices = known[flag].choices if flag in known else None
        if choices and not values <= {str(c) for c in choices}:
            found.append(f"option --{flag} does not take {sorted(values - {str(c) for c in choices})}")
    return found


def defect(case: Case, kind, parser: argparse.ArgumentParser) -> str | None:
    from sglang.srt.utils.server_args_config_parser import ConfigArgumentMerger

    for key in [k for k in os.environ if k.startswith("SGLANG_PP_")]:
        del os.environ[key]
    os.environ.update(case.environment)
    try:
        words = list(case.words)
        if "--config" in words:
            words = ConfigArgumentMerger(parser).merge_config_with_args(words)
        arguments = parser.parse_args([*words, "--device", "cpu"])
        server = kind.from_cli_args(arguments)
        server.resolve_once()
        server.check_server_args()
    except SystemExit as error:
        return f"parser exit {error.code}"
    except Exception as error:  # noqa: BLE001 - whatever SGLang raises is the finding
        return f"{type(error).__name__}: {str(error).splitlines()[:3]}"
    local = server.tp_size * server.pp_size // server.nnodes
    return None if local == case.num_devices else f"SGLang wants {local} devices, not {case.num_devices}"


def plans() -> list[tuple[str, Plan]]:
    named = [Path(p) for p in sys.argv[1:]]
    if named:
        return [(p.stem, Plan.model_validate_json(p.read_bytes())) for p in named]
    assert FOLDER.is_dir()
    return [(name, for_engine(load(name), "sglang")) for name in NAMES]


def main() -> int:
    kind = server_args()
    parser = argparse.ArgumentParser(prog="sglang")
    kind.add_cli_args(parser)
    found = flag_defects(parser)
    with tempfile.TemporaryDirectory() as scratch:
        for name, plan in plans():
            folder = Path(scratch)
            cases = [
                *script_cases("sglang", COMMAND, name, plan, folder),
                *manifest_cases(name, plan, folder),
            ]
            for case in cases:
                why = defect(case, kind, parser)
                sys.stdout.write(
                    f"{'REJECT' if why else 'ok':6} {case.name}" + (f": {why}" if why else "") + "\n"
                )
                sys.stdout.flush()
                found += [f"{case.name}: {why}"] if why else []
    for text in found:
        sys.stdout.write(f"DEFECT {text}\n")
    sys.stdout.write(f"{len(found)} defects\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
