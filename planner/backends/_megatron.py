"""From a training job to the arguments of Megatron-LM's ``pretrain_gpt.py``.

Written against the argument parser and ``validate_args`` of NVIDIA/Megatron-LM in 2026
(megatron/training/arguments.py); the layout string is that of ``--pipeline-model-parallel-layout``.
"""

from __future__ import annotations

from itertools import groupby

from planner.backends._protocol import ONE_GROUP, SERVING_DEGREES, Capabilities, ExportedFile, ExportOptions
from planner.backends._training import (
    NO_CACHE,
    ROLE,
    Job,
    argument_lines,
    launch_files,
    readme,
)
from planner.ir.model_graph import AttentionCore, Experts, Linear, StateCore

Arguments = dict[str, str | int | float | bool]

CAPABILITIES = Capabilities(
    kinds=frozenset({"training"}),
    engines=frozenset(),
    roles=frozenset({ROLE}),
    degrees=frozenset({"tp", "pp", "dp", "cp", "ep", "etp", "num_chunks"}),
    limits=frozenset(),
    weight_dtypes={"bf16": "bf16", "fp16": "fp16", "fp8": "fp8", "fp8_block": "fp8"},
    kv_dtypes=NO_CACHE,
    refused_degrees=SERVING_DEGREES,
    settings=frozenset(
        {
            "global_batch",
            "seq_len",
            "micro_batch",
            "zero",
            "dp_shard",
            "cp_ulysses",
            "sequence_parallel",
            "recompute",
            "recompute_layers",
            "offload",
            "schedule",
            "layers_per_chunk",
            "gradients",
            "rank_tokens",
        }
    ),
    refused_settings={name: why for name, why in ONE_GROUP.items() if name != "rank_tokens"},
)
_RECIPES = {"fp8": "delayed", "fp8_block": "blockwise"}


def arguments(job: Job) -> Arguments:
    """Return every argument that the plan decides.

    Raises
    ------
    UnsupportedError
        Naming the decision that Megatron-LM cannot express.
    """
    return {
        **_degrees(job),
        **_pipeline(job),
        **_batch(job),
        **_states(job),
        **_precision(job),
        **_model(job),
    }


def _degrees(job: Job) -> Arguments:
    s, settings = job.pool.strategy, job.settings
    found: Arguments = {
        "tensor-model-parallel-size": s.tp,
        "pipeline-model-parallel-size": s.pp,
        "context-parallel-size": s.cp,
        "sequence-parallel": settings.sequence_parallel,
    }
    if job.model.num_experts:
        found |= {"expert-model-parallel-size": s.ep, "expert-tensor-parallel-size": s.etp}
    if s.cp > 1 and settings.cp_ulysses == s.cp:
        found["cp-comm-type"] = "a2a"
    elif s.cp > 1 and settings.cp_ulysses > 1:
        found["cp-comm-type"] = "a2a+p2p"
        # Adjacent ranks exchange heads, groups of them pass keys and values in a ring.
        found["hierarchical-context-parallel-sizes"] = f"{settings.cp_ulysses} {s.cp // settings.cp_ulysses}"
    elif s.cp > 1:
        found["cp-comm-type"] = "p2p"
    return found


def layout(chunks: list[int]) -> str:
    """Return the layout string of chunks in model order, equal neighbours written once: ``Ett|(tt|)*5tL``."""
    parts = ["t" * count for count in chunks]
    parts[0] = "E" + parts[0]
    parts[-1] += "L"
    found: list[str] = []
    for part, run in groupby(parts):
        count = len(list(run))
        found.append(f"({part}|)*{count}" if count > 1 and part else f"{part}|" * count)
    return "".join(found).removesuffix("|")


def _pipeline(job: Job) -> Arguments:
    s, settings = job.pool.strategy, job.settings
    if s.pp == 1:
        return {}
    if settings.schedule not in ("1f1b", "interleaved"):
        raise job.refuse(
            "schedule",
            "Megatron-LM runs 1F1B and interleaved 1F1B",
            hint="Plan with --schedule 1f1b,interleaved.",
        )
    if len(set(settings.layers_per_chunk)) > 1:
        return {"pipeline-model-parallel-layout": layout(settings.layers_per_chunk)}
    return {"num-virtual-stages-per-pipeline-rank": s.num_chunks} if s.num_chunks > 1 else {}


def _batch(job: Job) -> Arguments:
    settings = job.settings
    found: Arguments = {
        "micro-batch-size": settings.micro_batch,
        "global-batch-size": settings.global_batch,
        "seq-length": settings.seq_len,
    }
    if settings.rank_tokens:
        if settings.zero >= 2:
            raise job.refuse(
                "zero",
                "Megatron-FSDP does not run with groups of context ranks that change",
                hint="Plan with --fix zero=1 or zero=0.",
            )
        found |= {
            "hybrid-context-parallel": True,
            "max-seqlen-per-dp-cp-rank": settings.rank_tokens,
            "calculate-per-token-loss": True,
            "dataloader-type": "single",
        }
    if settings.recompute == "full":
        per_chunk = max(settings.layers_per_chunk)
        count = settings.recompute_layers or per_chunk
        block = count < per_chunk
        found |= {
            "recompute-granularity": "full",
            "recompute-method": "block" if block else "uniform",
            "recompute-num-layers": count if block else 1,
        }
    elif settings.recompute == "selective":
        modules = "layernorm moe_act" if job.model.num_experts else "layernorm mlp"
        found |= {"recompute-granularity": "selective", "recompute-modules": modules}
    return found | _offload(job)


def _offload(job: Job) -> Arguments:
    """Return what keeps states and activations on the host; whole layers leave through Transformer Engine.

    That takes no pipeline, no recomputation and all layers but the last (TransformerConfig.__post_init__).
    """
    settings, found = job.settings, Arguments()
    if settings.offload in ("optimizer_and_parameters", "everything"):
        raise job.refuse("offload", "Megatron-LM offloads states and activations, not parameters")
    if settings.offload in ("optimizer", "optimizer_and_activations"):
        found |= {"optimizer-cpu-offload": True, "use-precision-aware-optimizer": True}
    if settings.offload in ("activations", "optimizer_and_activations"):
        if job.pool.strategy.pp > 1 or settings.recompute != "none":
            raise job.refuse(
                "offload",
                "Megatron-LM offloads activations of whole layers without pipeline and recomputation only",
                hint="Plan with --fix pp=1,recompute=none.",
            )
        found |= {"cpu-offloading-num-layers": max(settings.layers_per_chunk) - 1}
    return found


def _states(job: Job) -> Arguments:
    """Return what ZeRO levels are called: the distributed optimizer, or Megatron-FSDP beyond it."""
    s, settings = job.pool.strategy, job.settings
    if settings.zero == 0:
        return {"overlap-grad-reduce": s.dp * s.cp > 1}
    found: Arguments = {
        "use-distributed-optimizer": True,
        "overlap-grad-reduce": True,
        "overlap-param-gather": True,
    }
    if settings.dp_shard < s.dp:
        found["num-distributed-optimizer-instances"] = s.dp // settings.dp_shard
    if settings.zero >= 2:
        strategy = "optim_grads" if settings.zero == 2 else "optim_grads_params"
        found |= {
            "use-megatron-fsdp": True,
            "data-parallel-sharding-strategy": strategy,
            "no-gradient-accumulation-fusion": True,
            "ckpt-format": "fsdp_dtensor",
        }
    return found


def _precision(job: Job) -> Arguments:
    fmt, gradients = job.pool.weight_dtype, job.settings.gradients
    if gradients not in ("full", "bf16"):
        raise job.refuse("gradients", "Megatron-LM reduces gradients in 32 or 16 bit", allowed="full, bf16")
    if fmt == "fp16":
        if gradients != "full":
            raise job.refuse("gradients", "Megatron-LM reduces in bf16 what it computes in bf16")
        return {"fp16": True}
    found: Arguments = {"bf16": True}
    if gradients == "bf16":
        found["grad-reduce-in-bf16"] = True
    if fmt in _RECIPES:
        found |= {"fp8-format": "hybrid", "fp8-recipe": _RECIPES[fmt]}
    return found


def _model(job: Job) -> Arguments:
    """Return the sizes of the model, as far as arguments can say them."""
    model = job.model
    ops = [op for layer in model.layers for op in layer.ops]
    cores = [op for op in ops if isinstance(op, AttentionCore)]
    dense = [op for op in ops if isinstance(op, Linear) and op.slot == "dense_ffn" and op.shard != "row"]
    found: Arguments = {
        "num-layers": len(model.layers),
        "hidden-size": model.hidden_size,
        "vocab-size": model.vocab_size,
        "max-position-embeddings": max(model.max_position, job.settings.seq_len),
        "untie-embeddings-and-output-weights": not model.tied_embeddings,
        "disable-bias-linear": not any(isinstance(op, Linear) and op.bias for op in ops),
    }
    if cores:
        core = cores[0]
        found |= {"num-attention-heads": core.num_heads, "kv-channels": core.head_dim}
        if core.num_kv_heads != core.num_heads and core.kind == "gqa":
            found |= {"group-query-attention": True, "num-query-groups": core.num_kv_heads}
    experts = [op for op in ops if isinstance(op, Experts)]
    gated = experts[0].gated if experts else _gated(job)
    found["swiglu"] = gated
    if dense:
        found["ffn-hidden-size"] = dense[0].out_features
    if experts:
        found |= {
            "num-experts": experts[0].num_experts,
            "moe-router-topk": experts[0].top_k,
            "moe-ffn-hidden-size": experts[0].inter,
            "moe-grouped-gemm": True,
            "moe-token-dispatcher-type": "alltoall",
        }
    return found


def _gated(job: Job) -> bool:
    """Return whether the feed-forward blocks have a gate beside the up projection."""
    for layer in job.model.layers:
        ups = [
            op for op in layer.ops if isinstance(op, Linear) and op.slot == "dense_ffn" and op.shard != "row"
        ]
        if ups:
            return len(ups) > 1
    return False


def environment(job: Job) -> dict[str, str]:
    """Return the environment: one connection per device unless FSDP overlaps its traffic."""
    if job.settings.zero >= 2:
        return {}
    return {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}


def notes(job: Job) -> list[str]:
    """Return what a reader must do that the plan cannot."""
    found = [
        "The arguments are in `megatron.args`; data, tokenizer, optimizer and checkpoints are yours to add.",
        "`MEGATRON` names the checkout of Megatron-LM.",
    ]
    odd = [op for layer in job.model.layers for op in layer.ops if isinstance(op, StateCore)]
    cores = job.model.attention_cores()
    if odd or any(core.kind == "mla" or core.window for core in cores):
        found.append(
            f"The architecture of {job.model.family} needs arguments of its own (latent attention, windows, "
            "recurrent mixers, shared experts): take them from the recipe of that model."
        )
    if job.settings.rank_tokens:
        found.append(
            "Megatron-LM forms the groups of every step itself, under the same limit on tokens per rank; the "
            "plan's own groups for the batches drawn are under `details.lengths` of the plan."
        )
    if job.settings.zero >= 2:
        found.append("Megatron-FSDP must not run with CUDA_DEVICE_MAX_CONNECTIONS=1.")
    return found


def program(job: Job) -> list[str]:
    """Return the program of the launch with all its arguments."""
    return ['"${MEGATRON:?Set MEGATRON to a checkout}/pretrain_gpt.py"', *argument_lines_of(job)]


def argument_lines_of(job: Job) -> list[str]:
    """Return the arguments as lines; values that are lists stay several words."""
    lists = ("hierarchical-context-parallel-sizes", "recompute-modules")
    found = arguments(job)
    lines = argument_lines({name: value for name, value in found.items() if name not in lists})
    return lines + [f"--{name} {found[name]}" for name in lists if name in found]


def files(job: Job, options: ExportOptions) -> list[ExportedFile]:
    """Return every file of the export but those of a scheduler."""
    return [
        ExportedFile(path="megatron.args", text="\n".join(argument_lines_of(job)) + "\n"),
        *launch_files(job, options, program=program(job), environment=environment(job)),
        readme(job, "Megatron-LM (pretrain_gpt.py)", notes(job), options),
    ]
