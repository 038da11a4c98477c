"""Calculon's formulas, written anew, give its published figures; Newel's search finds its best plans.

Source of the figures: output of ``calculon llm-validation`` and of ``llm-optimal-execution`` on
``systems/a100_80g.json`` (calculon-ai/calculon, Apache-2.0, commit caa4b11): predicted steps, mean and worst
errors against Korthikanti et al. 2022 (arXiv 2205.05198, figures 1 and 7, table 5), counts of executions.
"""

from __future__ import annotations

import numpy as np
import pytest

from planner.space.training.grid import Space, points, rows, sharded
from planner.space.training.plans import concatenate
from tests.benchmarks.calculon.machine import A100_80G, A100_ENDLESS, GIB, MODELS
from tests.benchmarks.calculon.options import Question, best_of, words
from tests.benchmarks.calculon.pricing import Executions, Price, price
from tests.benchmarks.calculon.search import CalculonEvaluator, newel_model, search, space_of
from tests.benchmarks.calculon_rival import CASES, ROUNDING

SHAPES = {
    "22B": {"tp": 8, "pp": 1, "laps": 1, "micro_batch": 4},
    "175B": {"tp": 8, "pp": 8, "laps": 3, "micro_batch": 1},
    "530B": {"tp": 8, "pp": 35, "laps": 3, "micro_batch": 1},
    "1T": {"tp": 8, "pp": 64, "laps": 1, "micro_batch": 1},
}
BATCHES = {"22B": 4, "175B": 64, "530B": 280, "1T": 512}
MODES = {
    "none": {},
    "seq": {"comm": 2, "gather_again": 1},
    "sel": {"recompute": 1},
    "seqsel": {"recompute": 1, "comm": 2, "gather_again": 1},
    "full": {"recompute": 2},
}
STEPS_S = {
    "22B": {"full": 1.40, "seqsel": 1.14},
    "175B": {"full": 18.03, "seqsel": 13.64},
    "530B": {"full": 49.89, "seqsel": 34.47},
    "1T": {"full": 90.08, "seqsel": 66.04},
}
MEASURED_GIB = {  # figure 1: states, activations without and with recomputation
    "22B": (45.5625, 59.25, 9.5625),
    "175B": (45.5625, 66.84375, 12.3515625),
    "530B": (31.640625, 114.0234375, 23.076171875),
    "1T": (32.958984375, 131.25, 26.5625),
}
MEASURED_PERCENT = {  # figure 7: activations left by seq, sel, seqsel, full
    "22B": (66.84, 49.42, 16.18, 7.64),
    "175B": (62.04, 56.53, 18.49, 8.71),
    "530B": (58.31, 62.04, 20.27, 9.42),
    "1T": (58.31, 62.04, 20.27, 9.42),
}


def validated(model: str, mode: str, *, endless: bool) -> Price:
    runs = Executions.of(1, **SHAPES[model], **MODES[mode], pipeline_net=1, data_net=1, fused=0)
    return price(MODELS[model], A100_ENDLESS if endless else A100_80G, runs, BATCHES[model])


@pytest.mark.parametrize("model", STEPS_S)
@pytest.mark.parametrize("mode", ["full", "seqsel"])
def test_steps_are_those_that_calculon_prints(model: str, mode: str) -> None:
    assert round(float(validated(model, mode, endless=False).time_s[0]), 2) == STEPS_S[model][mode]


def test_errors_of_memory_are_those_that_calculon_prints() -> None:
    states, activations, shares = [], [], []
    for model, (state, none, kept) in MEASURED_GIB.items():
        found = {mode: validated(model, mode, endless=True) for mode in MODES}
        states += [abs(1.0 - found[mode].states_bytes[0] / GIB / state) for mode in ("none", "seqsel")]
        for mode, measured in (("none", none), ("seqsel", kept)):
            activations.append(abs(1.0 - found[mode].activation_bytes[0] / GIB / measured))
        whole = found["none"].activation_bytes[0]
        for mode, percent in zip(("seq", "sel", "seqsel", "full"), MEASURED_PERCENT[model], strict=True):
            shares.append(abs(1.0 - found[mode].activation_bytes[0] / whole / percent * 100.0))
    assert (round(100 * np.mean(states), 2), round(100 * max(states), 2)) == (8.49, 10.84)
    assert (round(100 * np.mean(activations), 2), round(100 * max(activations), 2)) == (2.08, 8.74)
    # Calculon's mean is over five modes, the first of which is its own base.
    assert (round(100 * np.sum(shares) / 20, 2), round(100 * max(shares), 1)) == (6.69, 30.4)


def test_its_own_search_is_walked_as_it_walks() -> None:
    question = Question(model=MODELS["22B"], num_devices=64, global_batch=64)
    best = best_of(question, A100_80G, common=False)
    assert (best.num_options, best.num_fit) == (346_390, 145_760)
    assert round(best.time_s, 3) == 1.384
    assert round(best.device_bytes / GIB, 2) == 79.63
    assert best.runs is not None
    assert words(best.runs) == "tp4 pp2 dp8 v24 mbs2 recompute none rs_ag ring dp_overlap"


@pytest.mark.parametrize(
    ("model", "devices", "batch", "offload"),
    [("22B", 8, 4, False), ("530B", 280, 280, False), ("175B", 64, 64, False), ("22B", 8, 16, True)],
)
def test_newel_finds_what_enumeration_finds(model: str, devices: int, batch: int, offload: bool) -> None:
    question = Question(model=MODELS[model], num_devices=devices, global_batch=batch, offload=offload)
    theirs = best_of(question, A100_80G, common=True)
    ours = search(newel_model(model, MODELS[model]), question, A100_80G)
    assert ours is not None
    assert theirs.runs is not None
    assert ours.outcome.bound == ours.time_s
    assert ours.time_s <= theirs.time_s * (1 + ROUNDING)
    assert ours.device_bytes <= A100_80G.memory_bytes
    again = price(MODELS[model], A100_80G, ours.runs, batch)
    assert again.time_s[0] == pytest.approx(ours.time_s, rel=1e-12)


def test_newel_finds_stages_that_calculon_does_not_try() -> None:
    question = Question(model=MODELS["530B"], num_devices=512, global_batch=512)
    theirs = best_of(question, A100_80G, common=False)
    ours = search(newel_model("530B", MODELS["530B"]), question, A100_80G)
    assert ours is not None
    assert ours.time_s < theirs.time_s
    assert 105 % int(ours.runs.pp[0]) != 0


def test_bounds_of_the_search_never_exceed_a_price() -> None:
    question = Question(model=MODELS["22B"], num_devices=24, global_batch=24, offload=True)
    evaluator = CalculonEvaluator(question=question, machine=A100_80G)
    space: Space = space_of(newel_model("22B", MODELS["22B"]), question)
    found = rows(space, concatenate(list(points(space))))
    plans = sharded(space, found.take(np.arange(0, len(found), 7)))
    priced = evaluator.evaluate(plans)
    outline = evaluator.outline(plans)
    finite = np.isfinite(priced.peak_bytes)
    assert finite.sum() > 200
    assert (outline.step_s <= priced.time.total_s * (1 + ROUNDING))[finite].all()
    assert (outline.least_bytes <= priced.peak_bytes * (1 + ROUNDING))[finite].all()


def test_cases_hold_the_four_models_at_their_published_sizes() -> None:
    assert {case.model for case in CASES} == set(MODELS)
    assert {case.num_devices for case in CASES} >= {8, 64, 280, 512, 4096}
