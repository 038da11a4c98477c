"""Places of decode workers: stated, read from the sweep of a run, or left open."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.accuracy.serving.places import with_places
from planner.accuracy.serving.rows import read_rows
from planner.accuracy.serving.run import score_serving
from planner.accuracy.serving.setup import Setup, SetupReader
from planner.cli._accuracy_serving import find_group, find_model

HEADER = (
    "gpu,framework,model,quantization,mode,p_tp,p_dp,p_workers,d_tp,d_dp,d_workers,concurrency,max_num_seqs,"
    "isl,osl,ttft_ms,tpot_ms"
)


def setups(folder: Path, engine: str, *lines: str, lengths: str = "1000,100") -> list[Setup]:
    path = folder / "runs.csv"
    rows = [f"h200,{engine},llama-3.1-8b,,disagg,{line},{lengths},9,5" for line in lines]
    path.write_text("\n".join((HEADER, *rows)) + "\n", encoding="utf-8")
    reader = SetupReader(find_model=find_model, find_group=find_group)
    return with_places([reader.read(row) for row in read_rows(path)])


def places(found: list[Setup]) -> list[int]:
    return [setup.halves[1].max_num_seqs for setup in found]


def test_the_top_of_a_sweep_tells_the_places(tmp_path: Path) -> None:
    sweep = [f"1,1,1,1,1,4,{load}," for load in (8, 48, 168, 150)]
    assert places(setups(tmp_path, "trtllm", *sweep)) == [32, 32, 32, 32]


def test_a_load_far_beyond_a_power_of_two_leaves_it_open(tmp_path: Path) -> None:
    assert places(setups(tmp_path, "trtllm", "1,1,1,1,1,1,92,")) == [2048]


def inferencex(folder: Path, fmt: str, *loads: int) -> list[int]:
    path = folder / "runs.csv"
    rows = [
        f"h100,trtllm,llama-3.1-8b,{fmt},disagg,1,1,1,1,1,3,{load},,1000,100,9,5,inferencex-a"
        for load in loads
    ]
    path.write_text("\n".join((HEADER + ",source", *rows)) + "\n", encoding="utf-8")
    reader = SetupReader(find_model=find_model, find_group=find_group)
    return places(with_places([reader.read(row) for row in read_rows(path)]))


def test_recipes_of_a_source_say_how_loads_and_places_go_together(tmp_path: Path) -> None:
    # one recipe per load of FP8 checkpoints: 18 clients of three workers with 4 places, 63 with 16
    assert inferencex(tmp_path, "fp8", 9, 18, 63) == [2, 4, 16]
    # one recipe for all loads otherwise, with up to half as many clients again as places
    assert inferencex(tmp_path, "bf16", 12, 36, 72, 144) == [32, 32, 32, 32]


def test_what_is_stated_is_taken(tmp_path: Path) -> None:
    assert places(setups(tmp_path, "trtllm", "1,1,1,1,1,2,36,16", "1,1,1,1,1,2,34,")) == [16, 16]


def test_other_engines_take_what_their_cache_holds(tmp_path: Path) -> None:
    assert places(setups(tmp_path, "sglang", "1,1,1,1,1,4,192,")) == [4096]


def test_clients_beyond_the_places_see_their_first_token_late(tmp_path: Path) -> None:
    setups(tmp_path, "trtllm", "1,1,1,1,1,1,36,32", "1,1,1,1,1,1,36,64", lengths="100,1000")
    few, many = score_serving(tmp_path / "runs.csv", find_model, find_group)
    assert few.prediction is not None
    assert many.prediction is not None
    assert few.prediction.values["ttft"] > 1.2 * many.prediction.values["ttft"]
    assert few.prediction.values["tpot"] <= many.prediction.values["tpot"]
    assert few.prediction.values["e2e"] == pytest.approx(many.prediction.values["e2e"], rel=0.1)
