"""Feeds every exported launch through vLLM's own command line parser and `create_engine_config`.

Runs in the virtual environment that run.sh makes; prints one line per launch and leaves with 1 if
any was rejected. It is a script and not a test, for vLLM takes minutes to install.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from launches import Case, manifest_cases, script_cases

from planner.backends._vllm_flags import CHOICES, FLAGS
from planner.plan.schema import Plan

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OFFLINE = ["--skip-tokenizer-init", "--load-format", "dummy"]


def parser():
    from vllm.entrypoints.cli.serve import cmd_init
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    top = FlexibleArgumentParser(description="vLLM CLI")
    subparsers = top.add_subparsers(required=False, dest="subparser")
    (serve,) = cmd_init()
    return top, serve.subparser_init(subparsers), serve


def flag_defects(serve_parser) -> list[str]:
    known = {s.removeprefix("--"): a for a in serve_parser._actions for s in a.option_strings}
    found = [f"flag --{flag} is unknown" for flag in FLAGS if flag not in known]
    for flag, values in CHOICES.items():
        choices = known[flag].choices if flag in known else None
        if choices and not values <= {str(c) for c in choices}:
            found.append(f"flag --{flag} does not take {sorted(values - {str(c) for c in choices})}")
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    if not CHOICES["quantization"] <= set(QUANTIZATION_METHODS):
        found.append(f"quantization methods are {QUANTIZATION_METHODS}")
    return found


def defect(case: Case, top, serve) -> str | None:
    """Return why vLLM rejects the launch, or None."""
    import vllm

    for key in [k for k in os.environ if k.startswith(("VLLM_PP_", "VLLM_NIXL_"))]:
        del os.environ[key]
    os.environ.update(case.environment)
    try:
        arguments = top.parse_args(["serve", *case.words, *OFFLINE])
        arguments.model = arguments.model_tag or arguments.model
        serve.validate(arguments)
        engine = vllm.AsyncEngineArgs.from_cli_args(arguments)
        config = engine.create_engine_config(headless=arguments.headless)
    except SystemExit as error:
        return f"parser exit {error.code}"
    except Exception as error:  # noqa: BLE001 - whatever vLLM raises is the finding
        return f"{type(error).__name__}: {str(error).splitlines()[:3]}"
    return local_size_defect(case, config)


def local_size_defect(case: Case, config) -> str | None:
    parallel = config.parallel_config
    local = parallel.local_world_size * max(1, parallel.data_parallel_size_local)
    if local != case.num_devices:
        return f"vLLM wants {local} devices in this process, it has {case.num_devices}"
    if "VLLM_PP_LAYER_PARTITION" in case.environment:
        from vllm.distributed.utils import get_pp_indices

        layers = config.model_config.hf_text_config.num_hidden_layers
        stages = parallel.pipeline_parallel_size
        end = [get_pp_indices(layers, stage, stages)[1] for stage in range(stages)]
        if end[-1] != layers:
            return f"the stages end at {end}"
    return None


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    named = [Path(p) for p in sys.argv[1:]] or sorted((ROOT / "tests" / "data" / "plans").glob("*.json"))
    top, serve_parser, serve = parser()
    found = flag_defects(serve_parser)
    with tempfile.TemporaryDirectory() as scratch:
        for path in named:
            plan = Plan.model_validate_json(path.read_bytes())
            cases = [
                *script_cases("vllm", "vllm serve", path.stem, plan, Path(scratch)),
                *manifest_cases(path.stem, plan, Path(scratch)),
            ]
            for case in cases:
                why = defect(case, top, serve)
                say(f"{'REJECT' if why else 'ok':6} {case.name}" + (f": {why}" if why else ""))
                found += [f"{case.name}: {why}"] if why else []
    say(f"{len(found)} defects")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
