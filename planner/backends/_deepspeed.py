"""From a training job to DeepSpeed's JSON: batch, ZeRO, offload, tensor parallelism.

Keys of DeepSpeed 0.19. Its engine checks neither unknown keys at the top level nor, before processes meet,
that the global batch is micro-batch x accumulation x ranks: both are made right here.
"""

from __future__ import annotations

import json

from planner.backends._protocol import ONE_GROUP, SERVING_DEGREES, Capabilities, ExportedFile, ExportOptions
from planner.backends._training import NO_CACHE, ROLE, Job, launch_files, readme

CAPABILITIES = Capabilities(
    kinds=frozenset({"training"}),
    engines=frozenset(),
    roles=frozenset({ROLE}),
    degrees=frozenset({"tp", "dp"}),
    limits=frozenset(),
    weight_dtypes={"bf16": "bf16", "fp16": "fp16"},
    kv_dtypes=NO_CACHE,
    refused_degrees={
        **SERVING_DEGREES,
        "pp": "its pipelines need a model rewritten as a PipelineModule",
        "cp": "its sequence parallelism is part of the model's code",
        "ep": "its experts are part of the model's code",
        "etp": "its experts are part of the model's code",
        "num_chunks": "it has no interleaved pipelines",
    },
    settings=frozenset(
        {
            "global_batch",
            "seq_len",
            "micro_batch",
            "zero",
            "dp_shard",
            "recompute",
            "offload",
            "schedule",
            "layers_per_chunk",
            "gradients",
        }
    ),
    refused_settings={
        **ONE_GROUP,
        "cp_ulysses": "its sequence parallelism is part of the model's code",
        "sequence_parallel": "its automatic tensor parallelism keeps whole activations",
        "recompute_layers": "which layers are recomputed is part of the model's code",
    },
)
CONFIG_FILE = "ds_config.json"


def config(job: Job) -> dict[str, object]:
    """Return the configuration.

    Raises
    ------
    UnsupportedError
        Naming the decision that DeepSpeed cannot express.
    """
    settings, s = job.settings, job.pool.strategy
    if settings.recompute == "selective":
        raise job.refuse("recompute", "DeepSpeed recomputes whole layers", allowed="none, full")
    found: dict[str, object] = {
        "train_batch_size": settings.global_batch,
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": job.num_micro,
        job.pool.weight_dtype: {"enabled": True},
        "gradient_clipping": 1.0,
        "zero_optimization": _zero(job),
    }
    if settings.gradients == "1bit":
        raise job.refuse(
            "gradients", "DeepSpeed 0.19 has removed its 1-bit optimizers", allowed="full, bf16, int4"
        )
    if settings.gradients == "bf16":
        found["communication_data_type"] = "fp16" if job.pool.weight_dtype == "fp16" else "bf16"
    if settings.offload in ("activations", "optimizer_and_activations", "everything"):
        if settings.recompute != "full":
            raise job.refuse(
                "offload",
                "DeepSpeed keeps the inputs of recomputed layers on the host, no other activations",
                hint="Plan with --fix recompute=full.",
            )
        found["activation_checkpointing"] = {"partition_activations": s.tp > 1, "cpu_checkpointing": True}
    if s.tp > 1:
        found["tensor_parallel"] = {"autotp_size": s.tp}
    return found


def _zero(job: Job) -> dict[str, object]:
    settings, s = job.settings, job.pool.strategy
    found: dict[str, object] = {"stage": settings.zero, "overlap_comm": True, "contiguous_gradients": True}
    if settings.gradients == "int4":
        found["zero_quantized_gradients"] = True
    if settings.zero and settings.dp_shard < s.dp:
        raise job.refuse(
            "dp_shard",
            "DeepSpeed shards states over all ranks: 0.19 removed sharding over groups (MiCS)",
            hint=f"Plan with --fix dp_shard={s.dp}.",
        )
    if settings.offload not in ("none", "activations"):
        if settings.zero == 0:
            raise job.refuse("offload", "DeepSpeed offloads what ZeRO shards", allowed="with ZeRO-1 to 3")
        found["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if settings.offload in ("optimizer_and_parameters", "everything"):
        if settings.zero < 3:
            raise job.refuse("offload", "DeepSpeed offloads parameters under ZeRO-3 alone")
        found["offload_param"] = {"device": "cpu", "pin_memory": True}
    return found


def files(job: Job, options: ExportOptions) -> list[ExportedFile]:
    """Return every file of the export but those of a scheduler."""
    notes = [
        f"`{CONFIG_FILE}` is what `deepspeed.initialize(config=...)` reads; `SCRIPT` names your training "
        "script, which receives `--deepspeed_config` and `--seq-length`.",
    ]
    if job.settings.recompute == "full":
        notes.append("Switch recomputation on in the model (`gradient_checkpointing_enable()`).")
    program = [
        '"${SCRIPT:?Set SCRIPT to your training script}"',
        f'--deepspeed_config "$here/{CONFIG_FILE}"',
        f"--seq-length {job.settings.seq_len}",
    ]
    return [
        ExportedFile(path=CONFIG_FILE, text=json.dumps(config(job), indent=2) + "\n"),
        *launch_files(job, options, program=program, environment={}),
        readme(job, "DeepSpeed 0.19", notes, options),
    ]
