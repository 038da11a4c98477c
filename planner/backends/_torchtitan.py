"""From a training job to the command line of torchtitan 0.3: a module, a config and overrides.

Keys of torchtitan 0.3.0 (torchtitan/config/configs.py and trainer.py). Its parser takes what is recomputed
as a subcommand, after which no other option can stand: it is the last word of the launch.
"""

from __future__ import annotations

import re

from planner.backends._protocol import ONE_GROUP, SERVING_DEGREES, Capabilities, ExportedFile, ExportOptions
from planner.backends._training import NO_CACHE, ROLE, Job, argument_lines, launch_files, readme
from planner.backends._training_schedule import schedule_text
from planner.errors import InputError
from planner.ir.model_graph import AttentionCore

Arguments = dict[str, str | int | float | bool]

CAPABILITIES = Capabilities(
    kinds=frozenset({"training"}),
    engines=frozenset(),
    roles=frozenset({ROLE}),
    degrees=frozenset({"tp", "pp", "dp", "cp", "ep", "num_chunks"}),
    limits=frozenset(),
    weight_dtypes={"bf16": "bfloat16"},
    kv_dtypes=NO_CACHE,
    refused_degrees={**SERVING_DEGREES, "etp": "torchtitan does not split an expert"},
    settings=frozenset(
        {
            "global_batch",
            "seq_len",
            "micro_batch",
            "zero",
            "dp_shard",
            "sequence_parallel",
            "recompute",
            "offload",
            "schedule",
            "layers_per_chunk",
            "share",
            "outer_loop",
        }
    ),
    refused_settings={
        **{name: why for name, why in ONE_GROUP.items() if name not in ("share", "outer_loop")},
        "gradients": "torchtitan reduces gradients in 32 bit alone (training.mixed_precision_reduce)",
        "cp_ulysses": "torchtitan passes keys and values round, it does not exchange heads",
        "recompute_layers": "torchtitan recomputes all layers or none (plan with --fix recompute_layers=0)",
    },
)
SCHEDULE_FILE = "schedule.csv"
PARTS = "parallelism.module_fqns_per_model_part"
"""The one option with several words."""
_SCHEDULES = {
    "1f1b": "1F1B",
    "gpipe": "GPipe",
    "interleaved": "Interleaved1F1B",
    "zb-v": "ZBVZeroBubble",
}
_WRITTEN_OUT = ("zb-h1", "zb-h2")
"""Schedules that torchtitan has no name for: their operations are listed in a file."""
_CONFIGS = {
    "llama-3.1-8b": ("llama3", "llama3_8b"),
    "llama-3.1-70b": ("llama3", "llama3_70b"),
    "llama-3.1-405b": ("llama3", "llama3_405b"),
    "deepseek-v3": ("deepseek_v3", "deepseek_v3_671b"),
    "qwen3-32b": ("qwen3", "qwen3_32b"),
}
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,200}:[A-Za-z_][A-Za-z0-9_]{0,200}")


def module_of(job: Job, options: ExportOptions) -> tuple[str, str]:
    """Return (module, config): what the user named, or torchtitan's own for a known model.

    Raises
    ------
    InputError
        If torchtitan is not known to have the model, or the name is none.
    """
    named = dict(options.model_paths).get(job.pool.model)
    if named is not None:
        if not _MODULE.fullmatch(named):
            raise InputError(
                "torchtitan takes a model as MODULE:CONFIG",
                key="--model-path",
                value=named,
                allowed="e.g. llama3:llama3_8b",
            )
        module, _, config = named.partition(":")
        return module, config
    known = _CONFIGS.get(job.pool.model.rsplit("/", 1)[-1].lower())
    if known is None:
        raise InputError(
            "torchtitan has no configuration of this model that is known here",
            key="pools[0].model",
            value=job.pool.model,
            allowed=", ".join(sorted(_CONFIGS)),
            hint="Name it with --model-path MODULE:CONFIG.",
        )
    return known


def arguments(job: Job, options: ExportOptions) -> Arguments:
    """Return module, config and every override that the plan decides.

    Raises
    ------
    UnsupportedError
        Naming the decision that torchtitan cannot express.
    """
    module, config = module_of(job, options)
    return {"module": module, "config": config, **_parallelism(job), **_pipeline(job), **_training(job)}


def _parallelism(job: Job) -> Arguments:
    s, settings = job.pool.strategy, job.settings
    if settings.zero == 1:
        raise job.refuse(
            "zero",
            "torchtitan shards gradients with optimizer states",
            hint="Plan with --fix zero=2, zero=3 or zero=0.",
        )
    if s.tp > 1 and not settings.sequence_parallel:
        raise job.refuse("sequence_parallel", "torchtitan splits tensors with sequence parallelism")
    if any(heads % s.tp for heads in _head_counts(job)):
        raise job.refuse("tp", "torchtitan gives every rank as many heads and copies none")
    shard = settings.dp_shard if settings.zero else 1
    if job.model.num_experts and (shard * s.cp * s.tp) % s.ep:
        raise job.refuse("ep", "torchtitan takes expert ranks from those that share states")
    found: Arguments = {
        "parallelism.data_parallel_replicate_degree": s.dp // shard,
        "parallelism.data_parallel_shard_degree": shard,
        "parallelism.tensor_parallel_degree": s.tp,
        "parallelism.context_parallel_degree": s.cp,
        "parallelism.pipeline_parallel_degree": s.pp,
        "parallelism.expert_parallel_degree": s.ep,
    }
    if settings.zero:
        keep = "always" if settings.zero == 3 else "never"
        found["parallelism.fsdp_reshard_after_forward"] = keep
    return found


def _head_counts(job: Job) -> set[int]:
    """Return how many heads of queries, and of keys and values where they are split, the model has."""
    cores = [op for layer in job.model.layers for op in layer.ops if isinstance(op, AttentionCore)]
    shared = {core.num_kv_heads for core in cores if core.kind == "gqa"}
    return shared | {core.num_heads for core in cores}


def _pipeline(job: Job) -> Arguments:
    s, settings = job.pool.strategy, job.settings
    if s.pp == 1:
        return {}
    if job.model.tied_embeddings:
        raise job.refuse("pp", "torchtitan does not tie embeddings over a pipeline")
    found: Arguments = {
        PARTS: _parts(job),
        "parallelism.pipeline_parallel_microbatch_size": settings.micro_batch,
    }
    if settings.schedule in _WRITTEN_OUT:
        found |= {
            "parallelism.pipeline_parallel_schedule": "PipelineScheduleMulti",
            "parallelism.pipeline_parallel_schedule_csv": SCHEDULE_FILE,
        }
    elif settings.schedule in _SCHEDULES:
        found["parallelism.pipeline_parallel_schedule"] = _SCHEDULES[settings.schedule]
    else:
        raise job.refuse("schedule", "torchtitan has no such schedule")
    return found


def _parts(job: Job) -> str:
    """Return the modules of every part of a pipeline in model order, as torchtitan's decoders name them.

    Its own split knows one or two parts per rank alone and equal middle parts; written out, every split of
    the plan can be said.
    """
    counts = job.settings.layers_per_chunk
    number = iter(range(sum(counts)))
    parts = [[f"layers.{next(number)}" for _ in range(count)] for count in counts]
    parts[0].insert(0, "tok_embeddings")
    parts[-1] += ["norm", "lm_head"]
    return " ".join(",".join(part) for part in parts)


def _training(job: Job) -> Arguments:
    s, settings = job.pool.strategy, job.settings
    if settings.offload == "optimizer":
        raise job.refuse("offload", "torchtitan offloads parameters with their optimizer states")
    if settings.offload in ("activations", "optimizer_and_activations", "everything"):
        raise job.refuse("offload", "torchtitan keeps activations on the device")
    found: Arguments = {
        "training.local_batch_size": settings.global_batch // s.dp if s.pp > 1 else settings.micro_batch,
        "training.global_batch_size": settings.global_batch,
        "training.seq_len": settings.seq_len,
        # Its CUDA graphs, on by default, work neither with pipelines nor where experts are dispatched.
        "training.disable_cuda_graphs": s.pp > 1 or s.ep > 1,
    }
    if settings.offload != "none":
        found["training.enable_cpu_offload"] = True
    return found


def _as_words(line: str) -> str:
    """Return a line of a command whose list of parts, if it is that, stays several words."""
    return line.replace("'", "") if line.startswith(f"--{PARTS} ") else line


def files(job: Job, options: ExportOptions, more: Arguments | None = None) -> list[ExportedFile]:
    """Return every file of the export but those of a scheduler; `more` are arguments beside the plan's."""
    found = {**arguments(job, options), **(more or {})}
    lines = [_as_words(line) for line in argument_lines(found)]
    recompute = f"activation-checkpoint:{job.settings.recompute}"
    shown_lines = [line.replace(SCHEDULE_FILE, f'"$here/{SCHEDULE_FILE}"') for line in lines]
    notes = [
        "Overrides are in `torchtitan.args`; data, tokenizer and checkpoints are yours to add.",
        "The layers of the config must be those of the plan's model.",
    ]
    written = [ExportedFile(path="torchtitan.args", text="\n".join([*lines, recompute]) + "\n")]
    if SCHEDULE_FILE in found.values():
        written.append(ExportedFile(path=SCHEDULE_FILE, text=schedule_text(job)))
    return [
        *written,
        *launch_files(
            job,
            options,
            program=["-m torchtitan.train", *shown_lines],
            environment={},
            last=[recompute],
        ),
        readme(job, "torchtitan 0.3", notes, options),
    ]
