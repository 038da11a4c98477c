"""Exports of training jobs: the flags that each decision becomes, and what is refused by name."""

from __future__ import annotations

import json
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from planner.backends import BACKENDS, ExportOptions
from planner.backends._megatron import layout
from planner.cli.main import main
from planner.errors import InputError, UnsupportedError
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan, TrainingSettings
from planner.plan.serialize import write_plan


@cache
def plan(cluster: str = "2x8xh100@ib400", model: str = "llama-3.1-8b", **fix: Any) -> Plan:
    spec = {
        "kind": "training",
        "model": model,
        "cluster": cluster,
        "workload": {"global_batch": 64, "seq_len": 8192},
        "objective": "min_step_time",
        "schedule": ["1f1b", "interleaved", "zb-h1", "zb-v"],
        "offload": ["none", "optimizer", "optimizer_and_parameters"],
        "fix": {"offload": "none", **fix},
    }
    return make_plan(spec, Run())


def settings(base: Plan, **changes: Any) -> Plan:
    pool = base.pools[0]
    assert pool.training is not None
    training = TrainingSettings.model_validate({**pool.training.model_dump(), **changes})
    return base.model_copy(update={"pools": [pool.model_copy(update={"training": training})]})


def exported(name: str, found: Plan, **options: Any) -> dict[str, str]:
    files = BACKENDS.get(name).export(found, ExportOptions(**options))
    return {file.path: file.text for file in files}


def flags(text: str) -> dict[str, str]:
    """Flags of a file of arguments with their values ("" for a switch)."""
    return {
        line.split(" ", 1)[0].removeprefix("--"): " ".join(shlex.split(line)[1:])
        for line in text.splitlines()
    }


def test_megatron_gets_every_decision() -> None:
    found = plan(tp=4, pp=2, cp=1, dp=2, num_chunks=4, zero=1, micro_batch=1, recompute="full")
    args = flags(exported("megatron", found)["megatron.args"])
    assert args["tensor-model-parallel-size"] == "4"
    assert args["pipeline-model-parallel-size"] == "2"
    assert args["num-virtual-stages-per-pipeline-rank"] == "4"
    assert (args["micro-batch-size"], args["global-batch-size"], args["seq-length"]) == ("1", "64", "8192")
    assert "use-distributed-optimizer" in args
    assert "use-megatron-fsdp" not in args
    assert args["recompute-granularity"] == "full"
    assert (args["recompute-method"], args["recompute-num-layers"]) == ("uniform", "1")
    assert "sequence-parallel" in args
    assert args["num-query-groups"] == "8"
    assert args["ffn-hidden-size"] == "14336"
    assert {"swiglu", "bf16", "untie-embeddings-and-output-weights", "disable-bias-linear"} <= set(args)


@pytest.mark.parametrize(
    ("zero", "strategy"), [(2, "optim_grads"), (3, "optim_grads_params")], ids=["gradients", "parameters"]
)
def test_megatron_shards_more_than_states_with_its_fsdp(zero: int, strategy: str) -> None:
    files = exported("megatron", plan(tp=1, pp=1, cp=1, dp=16, dp_shard=8, zero=zero))
    args = flags(files["megatron.args"])
    assert args["data-parallel-sharding-strategy"] == strategy
    assert args["ckpt-format"] == "fsdp_dtensor"
    assert args["num-distributed-optimizer-instances"] == "2"
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in files["launch.sh"]


def test_megatron_gets_experts_and_context() -> None:
    found = plan(cluster="4x8xh100@ib400", model="mixtral-8x7b", tp=2, ep=4, etp=1, pp=2, cp=2, zero=1)
    args = flags(exported("megatron", found)["megatron.args"])
    assert args["expert-model-parallel-size"] == "4"
    assert args["expert-tensor-parallel-size"] == "1"
    assert (args["num-experts"], args["moe-router-topk"]) == ("8", "2")
    assert args["cp-comm-type"] == "p2p"


@pytest.mark.parametrize(
    ("ulysses", "kind", "sizes"), [(4, "a2a", None), (2, "a2a+p2p", "2 2")], ids=["heads", "both"]
)
def test_megatron_gets_both_kinds_of_context_parallelism(ulysses: int, kind: str, sizes: str | None) -> None:
    found = settings(plan(tp=1, pp=1, cp=4, dp=4, zero=1), cp_ulysses=ulysses)
    args = flags(exported("megatron", found)["megatron.args"])
    assert args["cp-comm-type"] == kind
    assert args.get("hierarchical-context-parallel-sizes") == sizes


def test_an_uneven_pipeline_is_a_layout() -> None:
    assert layout([1, 2, 2, 2, 1]) == "Et|(tt|)*3tL"
    assert layout([2, 1]) == "Ett|tL"
    assert layout([0, 2, 0]) == "E|tt|L"
    found = settings(plan(tp=4, pp=4, cp=1, dp=1, num_chunks=1, schedule="1f1b", zero=0))
    found = settings(found, layers_per_chunk=[7, 9, 9, 7])
    args = flags(exported("megatron", found)["megatron.args"])
    assert args["pipeline-model-parallel-layout"] == f"E{'t' * 7}|({'t' * 9}|)*2{'t' * 7}L"


def test_torchtitan_gets_every_decision() -> None:
    found = plan(tp=2, pp=2, cp=1, dp=4, dp_shard=2, zero=2, num_chunks=1, schedule="1f1b", micro_batch=1)
    args = flags(exported("torchtitan", found)["torchtitan.args"])
    assert (args["module"], args["config"]) == ("llama3", "llama3_8b")
    assert args["parallelism.data_parallel_replicate_degree"] == "2"
    assert args["parallelism.data_parallel_shard_degree"] == "2"
    assert args["parallelism.pipeline_parallel_schedule"] == "1F1B"
    assert args["parallelism.pipeline_parallel_microbatch_size"] == "1"
    assert args["parallelism.fsdp_reshard_after_forward"] == "never"
    assert args["training.local_batch_size"] == "16"
    assert args["training.global_batch_size"] == "64"
    assert "training.disable_cuda_graphs" in args


def test_torchtitan_reads_other_schedules_from_a_file() -> None:
    found = plan(tp=2, pp=4, cp=1, dp=2, zero=2, schedule="zb-h1", micro_batch=1)
    files = exported("torchtitan", found)
    assert flags(files["torchtitan.args"])["parallelism.pipeline_parallel_schedule_csv"] == "schedule.csv"
    assert '"$here/schedule.csv"' in files["launch.sh"]
    rows = files["schedule.csv"].splitlines()
    assert len(rows) == 4
    assert rows[0].split(",")[0] == "0F0"


def test_torchtitan_is_told_the_modules_of_every_part() -> None:
    found = plan(tp=2, pp=2, cp=1, dp=4, zero=2, num_chunks=1, schedule="1f1b", micro_batch=1)
    files = exported("torchtitan", settings(found, layers_per_chunk=[3, 29]))
    [line] = [line for line in files["torchtitan.args"].splitlines() if "module_fqns" in line]
    parts = [part.split(",") for part in line.split(" ")[1:]]
    assert parts[0] == ["tok_embeddings", "layers.0", "layers.1", "layers.2"]
    assert parts[1] == [*(f"layers.{i}" for i in range(3, 32)), "norm", "lm_head"]


def test_what_torchtitan_recomputes_comes_after_the_users_own_words() -> None:
    files = exported("torchtitan", plan(tp=1, pp=1, cp=1, dp=16, zero=3, recompute="full"))
    words = files["launch.sh"].split()
    assert words.index('"$@"') < words.index("activation-checkpoint:full")
    assert files["torchtitan.args"].splitlines()[-1] == "activation-checkpoint:full"


def test_deepspeed_gets_batch_states_and_offload() -> None:
    found = plan(tp=1, pp=1, cp=1, dp=16, zero=3, micro_batch=2, offload="optimizer", recompute="full")
    config = json.loads(exported("deepspeed", found)["ds_config.json"])
    assert config["train_batch_size"] == 64
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 16 == 64
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert "offload_param" not in config["zero_optimization"]
    assert config["bf16"] == {"enabled": True}


def test_activations_on_the_host_are_asked_for_where_a_stack_can() -> None:
    found = settings(plan(tp=4, pp=1, cp=1, dp=4, recompute="none"), offload="optimizer_and_activations")
    args = flags(exported("megatron", found)["megatron.args"])
    assert args["cpu-offloading-num-layers"] == "31"
    assert "optimizer-cpu-offload" in args
    found = plan(tp=1, pp=1, cp=1, dp=16, zero=3, micro_batch=2, recompute="full")
    config = json.loads(exported("deepspeed", settings(found, offload="activations"))["ds_config.json"])
    assert config["activation_checkpointing"]["cpu_checkpointing"] is True
    assert "offload_optimizer" not in config["zero_optimization"]


def test_a_pipeline_is_written_for_torch() -> None:
    found = plan(tp=2, pp=4, cp=1, dp=2, schedule="zb-v", num_chunks=2, micro_batch=1)
    files = exported("torch-pipelining", found)
    stages = json.loads(files["stages.json"])["stages"]
    assert [stage["rank"] for stage in stages] == [0, 1, 2, 3, 3, 2, 1, 0]
    held = [sum(part["num_layers"] for part in stages if part["rank"] == rank) for rank in range(4)]
    assert sum(held) == 32
    assert held == found.pools[0].layers_per_stage
    assert len(files["schedule.csv"].splitlines()) == 4


@pytest.mark.parametrize(
    ("backend", "fix", "changes", "key"),
    [
        ("megatron", {"pp": 4, "schedule": "zb-h1"}, {}, "training.schedule"),
        ("megatron", {"pp": 1}, {"offload": "optimizer_and_parameters"}, "training.offload"),
        ("megatron", {"pp": 2, "recompute": "none"}, {"offload": "activations"}, "training.offload"),
        ("megatron", {"pp": 1, "recompute": "full"}, {"offload": "activations"}, "training.offload"),
        (
            "torchtitan",
            {"zero": 2, "dp": 8, "tp": 2, "pp": 1, "cp": 1},
            {"offload": "activations"},
            "offload",
        ),
        (
            "deepspeed",
            {"dp": 16, "pp": 1, "tp": 1, "cp": 1, "recompute": "none"},
            {"offload": "activations"},
            "offload",
        ),
        ("torchtitan", {"zero": 1, "dp": 8, "tp": 2, "pp": 1, "cp": 1}, {}, "training.zero"),
        ("torchtitan", {"zero": 2, "dp": 8, "tp": 2, "pp": 1, "cp": 1}, {"offload": "optimizer"}, "offload"),
        ("torchtitan", {"zero": 2, "dp": 8, "cp": 2, "tp": 1, "pp": 1}, {"cp_ulysses": 2}, "cp_ulysses"),
        ("deepspeed", {"pp": 2}, {}, "strategy.pp"),
        ("deepspeed", {"cp": 2, "pp": 1}, {}, "strategy.cp"),
        (
            "deepspeed",
            {"dp": 16, "pp": 1, "tp": 1, "zero": 1, "recompute": "full"},
            {"dp_shard": 2},
            "dp_shard",
        ),
        ("deepspeed", {"dp": 16, "pp": 1, "tp": 1, "cp": 1}, {"recompute": "selective"}, "recompute"),
        ("torch-pipelining", {"pp": 1}, {}, "strategy.pp"),
        ("vllm", {"pp": 1}, {}, "kind"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(
    backend: str, fix: dict[str, Any], changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(UnsupportedError) as raised:
        exported(backend, settings(plan(**fix), **changes))
    assert key in str(raised.value)


def test_a_model_that_torchtitan_does_not_have_must_be_named() -> None:
    found = plan(model="llama-2-7b", cluster="8xh100", tp=1, pp=1, zero=3)
    with pytest.raises(InputError, match="MODULE:CONFIG"):
        exported("torchtitan", found)
    args = flags(
        exported("torchtitan", found, model_paths=((found.pools[0].model, "llama3:mine"),))["torchtitan.args"]
    )
    assert args["config"] == "mine"
    with pytest.raises(InputError, match="MODULE:CONFIG"):
        exported("torchtitan", found, model_paths=((found.pools[0].model, "a b; rm -rf /"),))


def test_slurm_starts_one_task_per_node() -> None:
    files = exported("slurm", plan(tp=4, pp=2, zero=1, schedule="interleaved"))
    script = files["job.sbatch"]
    assert "#SBATCH --nodes=2\n" in script
    assert "#SBATCH --gpus-per-node=8\n" in script
    assert "hosts.env" not in files["launch-slurm.sh"]
    assert "sbatch job.sbatch" in files["README.md"]


@pytest.mark.parametrize("backend", ["megatron", "slurm", "deepspeed", "torchtitan"])
def test_hostile_names_stay_words(backend: str, tmp_path: Path) -> None:
    found = plan(tp=1, pp=1, cp=1, dp=16, zero=2, recompute="none")
    evil = "x'$(touch pwned)`id`;&|\"y"
    seat = found.placement[0]
    devices = [text.replace("h100-", evil) for text in seat.devices]
    renamed = found.model_copy(
        update={"name": f"{evil}", "placement": [seat.model_copy(update={"devices": devices})]}
    )
    files = exported(backend, renamed)
    for path, text in files.items():
        if not path.endswith((".sh", ".sbatch")):
            continue
        script = tmp_path / path.replace("/", "-")
        script.write_text(text, encoding="utf-8")
        subprocess.run(["bash", "-n", str(script)], check=True)
    if "hosts.env" in files:
        command = ["bash", "-c", '. ./hosts.env; printf %s "$MASTER_ADDR"']
        (tmp_path / "hosts.env").write_text(files["hosts.env"], encoding="utf-8")
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == f"{evil}0"
        assert not (tmp_path / "pwned").exists()


def test_the_command_writes_a_folder(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", plan(tp=4, pp=2, zero=1, schedule="interleaved"))
    assert main(["export", str(tmp_path / "plan.json"), "--to", "megatron", "-o", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "nodes").is_dir()
    assert (tmp_path / "run" / "launch.sh").stat().st_mode & 0o111


def test_a_placement_that_does_not_fit_is_refused() -> None:
    found = plan(tp=4, pp=2, zero=1, schedule="interleaved")
    seat = found.placement[0]
    for devices in (seat.devices[:-1], ["nowhere"] * 16, seat.devices[::-1]):
        broken = found.model_copy(update={"placement": [seat.model_copy(update={"devices": devices})]})
        if devices == seat.devices[::-1]:
            exported("megatron", broken)
            continue
        with pytest.raises(InputError):
            exported("megatron", broken)


def test_formats_of_gradients_are_told_to_the_trainers_that_know_them() -> None:
    base = plan(tp=1, pp=1, cp=1, dp=16, zero=3, dp_shard=16)
    assert "grad-reduce-in-bf16" in flags(
        exported("megatron", settings(base, gradients="bf16"))["megatron.args"]
    )
    assert "grad-reduce-in-bf16" not in flags(exported("megatron", base)["megatron.args"])
    half = json.loads(exported("deepspeed", settings(base, gradients="bf16"))["ds_config.json"])
    assert half["communication_data_type"] == "bf16"
    four = json.loads(exported("deepspeed", settings(base, gradients="int4"))["ds_config.json"])
    assert four["zero_optimization"]["zero_quantized_gradients"] is True


@pytest.mark.parametrize(
    ("backend", "gradients"),
    [("megatron", "int4"), ("megatron", "1bit"), ("torchtitan", "bf16"), ("deepspeed", "1bit")],
)
def test_formats_of_gradients_are_refused_by_name(backend: str, gradients: str) -> None:
    base = plan(tp=1, pp=1, cp=1, dp=16, zero=3, dp_shard=16)
    with pytest.raises(UnsupportedError) as caught:
        exported(backend, settings(base, gradients=gradients))
    assert caught.value.key == "pools[0].training.gradients"


def test_groups_by_length_are_what_megatron_calls_hybrid_context_parallelism() -> None:
    base = settings(plan(tp=1, pp=1, cp=1, dp=16, zero=1), rank_tokens=8192)
    args = flags(exported("megatron", base)["megatron.args"])
    assert args["max-seqlen-per-dp-cp-rank"] == "8192"
    assert {"hybrid-context-parallel", "calculate-per-token-loss"} <= set(args)
    for backend in ("torchtitan", "deepspeed"):
        with pytest.raises(UnsupportedError):
            exported(backend, base)
    sharded = settings(plan(tp=1, pp=1, cp=1, dp=16, zero=3, dp_shard=16), rank_tokens=8192)
    with pytest.raises(UnsupportedError):
        exported("megatron", sharded)


def sites(**changes: Any) -> Plan:
    spec = {
        "kind": "training",
        "model": "llama-3.2-1b",
        "cluster": {
            "groups": [{"name": n, "device": "h100", "nodes": 1} for n in ("east", "west")],
            "group_links": [
                {
                    "groups": ["east", "west"],
                    "bandwidth": "0.5 GB/s",
                    "latency": "20 ms",
                    "capacity": "1 GB/s",
                }
            ],
        },
        "workload": {"global_batch": 64, "seq_len": 2048},
        "outer_loop": {"steps": [40], "bits": [8], "fragments": [2], "overlap_steps": [3]},
        "fix": {"pp": 1, "zero": 2, "tp": 1, "cp": 1, "dp": 8, "dp_shard": 8},
    }
    return make_plan({**spec, **changes}, Run())


def test_an_outer_loop_is_a_launch_per_site_under_torchft() -> None:
    paths = (("meta-llama/Llama-3.2-1B", "torchft.llama3:llama3_torchft_1b"),)
    files = exported("torchtitan", sites(), model_paths=paths)
    for number in (0, 1):
        args = flags(files[f"site-{number}/torchtitan.args"])
        assert args["fault_tolerance.replica_id"] == str(number)
        assert args["fault_tolerance.group_size"] == "2"
        assert args["fault_tolerance.semi_sync_method"] == "diloco"
        assert args["fault_tolerance.sync_steps"] == "40"
        assert args["fault_tolerance.num_fragments"] == "2"
        assert args["fault_tolerance.fragment_sync_delay"] == "3"
        assert "fault_tolerance.should_quantize" in args
        assert args["training.global_batch_size"] == "64"
    with pytest.raises(InputError, match="trainer configuration"):
        exported("torchtitan", sites())
    four = {"steps": [40], "bits": [4], "fragments": [2], "overlap_steps": [3]}
    with pytest.raises(UnsupportedError, match="32 bit or 8"):
        exported("torchtitan", sites(outer_loop=four), model_paths=paths)
    with pytest.raises(UnsupportedError):
        exported("megatron", sites())


def test_sites_of_different_shapes_are_refused_by_name() -> None:
    base = sites()
    first, second = base.pools
    assert second.training is not None
    other = second.model_copy(update={"training": second.training.model_copy(update={"share": 16})})
    uneven = base.model_copy(update={"pools": [first, other]})
    with pytest.raises(UnsupportedError) as caught:
        exported("torchtitan", uneven)
    assert caught.value.key == "pools[1].training.share"
