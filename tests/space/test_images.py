"""Vision towers: patches and tokens of images, what a tower adds to first tokens, the checker's own count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.models import load_model
from planner.ir.strategy import ServingStrategy
from planner.ir.workload import Images
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.space.replica import ReplicaBuilder
from planner.verify import problem_of, verify_plan
from tests.serving_cases import H200, cluster, costs, group, problem

HIDDEN, INTER, DEPTH, MERGED, OUT, PATCH = 1152, 4304, 27, 4608, 5120, 1536
"""Of the tower of Qwen3.5 27B: width, block, layers, merged width, text width, a patch of 2 x 3 x 16 x 16."""


@pytest.mark.parametrize(
    ("name", "pixels", "patches", "tokens"),
    [
        ("qwen3.5-27b", (1024, 1024), 4096, 1024),
        ("qwen3.5-27b", (640, 480), 1200, 300),
        ("kimi-k2.5", (896, 448), 2048, 512),
        ("gemma-3-27b", (1920, 1080), 4096, 256),
        ("qwen3.5-27b", (1, 1), 4, 1),
    ],
)
def test_an_image_is_so_many_patches_and_tokens(
    name: str, pixels: tuple[int, int], patches: int, tokens: int
) -> None:
    tower = load_model(name, diagnostics=Diagnostics()).vision
    assert tower is not None
    assert tower.patches_and_tokens(*pixels) == (patches, tokens)


def builder(images: Images | None) -> ReplicaBuilder:
    where = group(H200, 1)
    case = problem(load_model("qwen3.5-27b", diagnostics=Diagnostics()), cluster(where))
    workload = replace(case.payload.workload, images=images)
    return ReplicaBuilder(
        problem=replace(case.payload, workload=workload), group=where, costs=costs(where, "vllm")
    )


def added_s(images: Images, tp: int = 1, pp: int = 1) -> float:
    layers = (64,) if pp == 1 else (32, 32)
    found = [
        builder(one).pricer.tables(ServingStrategy(tp=tp, pp=pp), "bf16", "auto", 8192.0, layers)
        for one in (images, None)
    ]
    rows = found[0].prompt_attention_s - found[1].prompt_attention_s
    assert (rows[1:] == 0.0).all()  # the tower is on the first stage
    return float(rows[0, 0])


def flops(patches: float, tokens: float) -> float:
    maps = DEPTH * (4 * HIDDEN**2 + 2 * HIDDEN * INTER) + PATCH * HIDDEN
    return (
        2.0 * patches * maps + 2.0 * tokens * (MERGED**2 + MERGED * OUT) + DEPTH * 4.0 * patches**2 * HIDDEN
    )


def test_a_tower_takes_at_least_what_its_products_do_at_the_peak_and_not_much_more() -> None:
    least = flops(4096, 1024) / H200.peak_flops_per_s["bf16"].value
    assert least < added_s(Images(count=1, patches=4096, tokens=1024)) < 4.0 * least


def test_images_add_up_and_tensor_ranks_share_them() -> None:
    one, four = (added_s(Images(count=n, patches=4096, tokens=1024)) for n in (1, 4))
    assert 3.0 * one < four <= 4.01 * one
    assert added_s(Images(count=4, patches=4096, tokens=1024), tp=4) < 0.6 * four
    assert added_s(Images(count=4, patches=4096, tokens=1024), pp=2) == pytest.approx(four, rel=0.05)


WORKLOAD: dict[str, object] = {"input_tokens": 500, "output_tokens": 50, "rate": "0.1/s"}
SPEC: dict[str, object] = {
    "model": "qwen3.5-27b",
    "cluster": "2xh200",
    "fix": {"tp": 1},
    "search": {"alternatives": 0},
}


def planned(mode: str = "aggregated", **workload: object) -> Plan:
    more = {"modes": [mode], "workload": WORKLOAD | workload}
    return make_plan(SPEC | more, Run(diagnostics=Diagnostics()))


@pytest.mark.parametrize("mode", ["aggregated", "disaggregated"])
def test_plans_with_images_pass_a_checker_that_counts_the_tower_itself(mode: str) -> None:
    # One image of 65,536 patches, which costs the tower about as much as its tokens cost the decoder.
    plan = planned(mode, images={"count": 1, "width": 4096, "height": 4096})
    case = problem_of(plan)
    assert case.payload.workload.lengths.mean_input == 500 + 16_384
    assert verify_plan(plan, case).passed
    # As many tokens of text have earlier first tokens, which the checker does not believe of images.
    text = planned(mode, input_tokens=500 + 16_384)
    assert text.predicted["ttft_s"].value < 0.8 * plan.predicted["ttft_s"].value
    assert "load" in verify_plan(text.model_copy(update={"inputs": plan.inputs}), case).failed_rules


def test_images_of_models_without_a_known_tower_are_refused() -> None:
    spec = SPEC | {"model": "llama-3.1-8b", "workload": WORKLOAD | {"images": {"width": 640, "height": 480}}}
    with pytest.raises(InputError, match="not understood"):
        make_plan(spec, Run(diagnostics=Diagnostics()))
    with pytest.raises(InputError, match="too many patches"):
        planned(images={"width": 90_000, "height": 90_000})


def test_explanations_name_the_tower() -> None:
    from planner.report.serving_steps import pool_bottlenecks

    plan = planned(images={"count": 1, "width": 4096, "height": 4096})
    (pool,) = plan.pools
    prefill = next(b for b in pool_bottlenecks(problem_of(plan), pool) if b.step.startswith("prefill"))
    assert 0.2 < dict(prefill.shares)["vision tower"] < 0.8
