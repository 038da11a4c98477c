"""Holds every exported megatron.args against the configurations of megatron-core, without a GPU.

Runs in the virtual environment of run.sh with megatron-core on the path. The wheel has no argument parser, so
that every argument is put into the field of the configuration that Megatron-LM's parser fills from it;
``TransformerConfig``, ``DistributedDataParallelConfig``, ``OptimizerConfig``, the pipeline layout and the
grid of ranks then check them. Prints one line per plan and leaves with 1 if any was rejected.
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
import sys
import warnings
from typing import Any

from training_plans import hold

from planner.plan.schema import Plan

MEANT_TO_BE_REFUSED = {
    "zero bubble": "training.schedule",
    "v shape": "training.schedule",
    "offload": "training.offload",
    "offloaded": "training.offload",
}
RENAMED = {"num-experts": "num_moe_experts", "swiglu": "gated_linear_unit", "fp8-format": "fp8"}
"""Arguments whose field has another name."""
OF_THE_PROGRAM = {
    "micro-batch-size",
    "global-batch-size",
    "seq-length",
    "max-position-embeddings",
    "vocab-size",
    "group-query-attention",
    "ckpt-format",
    "num-virtual-stages-per-pipeline-rank",
}
"""Arguments of the training program (megatron/training/arguments.py), which no configuration holds."""
NEGATED = {
    "disable-bias-linear": "add_bias_linear",
    "no-gradient-accumulation-fusion": "gradient_accumulation_fusion",
    "untie-embeddings-and-output-weights": "share_embeddings_and_output_weights",
}
LISTS = {"hierarchical-context-parallel-sizes", "recompute-modules"}


def value_of(name: str, words: list[str]) -> Any:
    if not words:
        return True
    values = [int(word) if word.isdigit() else word for word in words]
    return values if name in LISTS else values[0]


def read(text: str) -> dict[str, Any]:
    """Arguments by name."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        flag, *words = shlex.split(line)
        name = flag.removeprefix("--")
        found[name] = value_of(name, words)
    return found


def fields_of(given: dict[str, Any]) -> dict[str, Any]:
    """What the configurations are called with."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in NEGATED:
            found[NEGATED[name]] = not value
        elif name not in OF_THE_PROGRAM:
            found[RENAMED.get(name, name.replace("-", "_"))] = value
    return found


def pipeline(given: dict[str, Any], plan: Plan, wanted: dict[str, Any]) -> str | None:
    """Read the layout as megatron-core does, and hold its layers against the plan's."""
    from megatron.core.transformer.enums import LayerType
    from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

    settings, pp = plan.pools[0].training, plan.pools[0].strategy.pp
    assert settings is not None
    text = given.get("pipeline-model-parallel-layout")
    if pp == 1:
        return None
    if text is None:
        chunks = given.get("num-virtual-stages-per-pipeline-rank", 1)
        wanted["virtual_pipeline_model_parallel_size"] = chunks if chunks > 1 else None
        equal = set(settings.layers_per_chunk) == {given["num-layers"] // (pp * chunks)}
        return None if equal else "the stages are not equal, and no layout says so"
    layout = PipelineParallelLayerLayout(text, pp)
    layout.validate_layer_layout(given["num-layers"], None)
    chunks = layout.virtual_pipeline_model_parallel_size
    wanted["virtual_pipeline_model_parallel_size"] = chunks if chunks > 1 else None
    order = [layout.layout[rank][lap] for lap in range(chunks) for rank in range(pp)]
    held = [part.count(LayerType.decoder) for part in order]
    return None if held == settings.layers_per_chunk else f"the stages hold {held}"


def ranks(plan: Plan) -> str | None:
    from megatron.core.parallel_state import RankGenerator

    s = plan.pools[0].strategy
    RankGenerator(tp=s.tp, ep=1, dp=s.dp, pp=s.pp, cp=s.cp, order="tp-cp-ep-dp-pp")
    world = s.tp * s.cp * s.dp * s.pp
    if world % (s.etp * s.ep * s.pp):
        return f"{world} ranks do not divide into experts"
    RankGenerator(tp=s.etp, ep=s.ep, dp=world // (s.etp * s.ep * s.pp), pp=s.pp, cp=1, order="tp-cp-ep-dp-pp")
    return None


def defect(plan: Plan, text: str) -> str | None:
    import torch
    from megatron.core import utils
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig
    from megatron.core.transformer import TransformerConfig

    utils._te_version = utils.PkgVersion(
        "2.9"
    )  # Transformer Engine, which only a GPU can run, is asked for its age
    given = read(text)
    wanted = fields_of(given)
    wanted["pipeline_dtype"] = torch.bfloat16
    wanted.pop("share_embeddings_and_output_weights", None)
    unused = set(wanted)
    try:
        if why := pipeline(given, plan, wanted):
            return why
        for kind in (TransformerConfig, DistributedDataParallelConfig, OptimizerConfig):
            names = {field.name for field in dataclasses.fields(kind)}
            kind(**{name: value for name, value in wanted.items() if name in names})
            unused -= names
        if why := ranks(plan):
            return why
    except Exception as error:  # noqa: BLE001 - whatever megatron-core raises is the finding
        return f"{type(error).__name__}: {str(error)[:300]}"
    return f"no configuration has {sorted(unused)}" if unused else None


def main() -> int:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    return hold("megatron", "megatron.args", MEANT_TO_BE_REFUSED, defect)


if __name__ == "__main__":
    sys.exit(main())
