from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.errors import EXIT_BAD_INPUT

CONFIGS = Path(__file__).parents[1] / "data" / "models" / "configs"


def test_show_prints_exact_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", str(CONFIGS / "zai-org--GLM-5.json"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["num_params"] == 743_911_199_232
    assert facts["num_active_text_params"] == 41_784_709_632
    assert facts["kv_bytes_per_token_bf16"] == 89_856
    assert facts["index_elems_per_token"] == 78 * 128
    assert sum(row["count"] for row in facts["layers"]) == facts["num_layers"] == 78
    assert sum(facts["num_params_by_fmt"].values()) == facts["num_params"]


def test_show_says_that_a_compressed_cache_has_no_constant_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", str(CONFIGS / "deepseek-ai--DeepSeek-V4-Flash.json"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kv_bytes_per_token_bf16"] is None
    assert set(facts["num_params_by_fmt"]) == {"bf16", "fp8_block", "mxfp4"}


def test_show_prints_a_table_of_runs_of_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", "deepseek-v3"]) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[-2:]] == ["0-2", "3-60"]
    assert "model-default" not in captured.out


def test_list_names_models_and_families(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"llama-3.1-70b", "deepseek-v3"} <= {entry["name"] for entry in listed["models"]}
    assert all(entry["source"] for entry in listed["models"])
    assert "llama" in listed["families"]


def test_bad_input_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", "$(touch x)"]) == EXIT_BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
