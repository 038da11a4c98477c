"""Configs are untrusted: whatever they hold, the answer is one InputError or a model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.models import MAX_CONFIG_BYTES, load_model, model_from_config
from planner.ir.model_graph import ModelGraph

CONFIGS = sorted((Path(__file__).parents[1] / "data" / "models" / "configs").glob("*.json"))
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}


def model(values: dict[str, Any], **options: Any) -> ModelGraph:
    return model_from_config(values, name="m", diagnostics=Diagnostics(), **options)


@pytest.mark.parametrize("key", [key for key in LLAMA if key not in {"model_type", "num_key_value_heads"}])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(InputError) as caught:
        model({k: v for k, v in LLAMA.items() if k != key})
    assert caught.value.key == key


@pytest.mark.parametrize("key", [key for key in LLAMA if key != "model_type"])
@pytest.mark.parametrize(
    "value", [-1, 0, True, "64", 64.0, float("nan"), float("inf"), 10**30, [64], {"a": 1}]
)
def test_a_wrong_value_is_named(key: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        model(LLAMA | {key: value})
    assert caught.value.key == key


def test_kv_heads_that_do_not_divide_the_heads() -> None:
    with pytest.raises(InputError, match="does not divide"):
        model(LLAMA | {"num_key_value_heads": 3})


def test_two_spellings_that_disagree() -> None:
    with pytest.raises(InputError, match="stated twice"):
        model(LLAMA | {"n_embd": 65})


def test_old_spellings() -> None:
    old = {k: v for k, v in LLAMA.items() if k not in {"hidden_size", "num_hidden_layers"}}
    assert model(old | {"n_embd": 64, "n_layer": 3}).num_params == model(LLAMA).num_params


def test_more_experts_per_token_than_experts() -> None:
    with pytest.raises(InputError, match="exceeds"):
        model(LLAMA | {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3})


@pytest.mark.parametrize(
    ("values", "relative"),
    [
        ({"model_type": "llama5"}, "llama"),
        ({"model_type": "xyz", "kv_lora_rank": 512}, "deepseek-v3"),
        ({"architectures": ["Qwen3MoreForCausalLM"]}, "qwen3"),
        ({"model_type": "zzz"}, "llama"),
    ],
)
def test_an_unknown_architecture_names_its_nearest_relative(values: dict[str, Any], relative: str) -> None:
    with pytest.raises(InputError) as caught:
        model(values)
    assert f"--assume-family {relative}" in str(caught.value)


def test_an_assumed_family_is_marked() -> None:
    diagnostics = Diagnostics()
    graph = model_from_config(
        LLAMA | {"model_type": "llama5"}, name="m", assume_family="llama", diagnostics=diagnostics
    )
    assert graph.assumed_family == "llama"
    assert graph.num_params == model(LLAMA).num_params
    assert [(e.severity, e.code) for e in diagnostics.entries if e.severity == "warning"] == [
        ("warning", "assumed-family")
    ]
    with pytest.raises(InputError):
        model(LLAMA | {"model_type": "llama5"}, assume_family="no such family")


def test_an_assumed_family_reads_the_text_part_of_a_composite_config() -> None:
    diagnostics = Diagnostics()
    graph = model_from_config(
        {"model_type": "llama5_vl", "text_config": LLAMA, "vision_config": {}},
        name="m",
        assume_family="llama",
        diagnostics=diagnostics,
    )
    assert graph.num_params == model(LLAMA).num_params
    assert any(e.code == "model-part" for e in diagnostics.entries)


def test_a_known_architecture_is_not_overruled() -> None:
    assert model(LLAMA, assume_family="mixtral").assumed_family == ""


def test_defaults_are_said() -> None:
    diagnostics = Diagnostics()
    model_from_config(LLAMA, name="m", diagnostics=diagnostics)
    assert any(e.code == "model-default" and "tie_word_embeddings" in e.message for e in diagnostics.entries)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"3", b"{", b"\xff\xfe", b"{}", b'{"model_type": 3}', b"[" * 100_000, b"1" * 5000, b'"a"'],
)
def test_files_that_are_no_config(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_model(path, diagnostics=Diagnostics())


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as stream:
        stream.truncate(MAX_CONFIG_BYTES + 1)
    with pytest.raises(InputError, match="larger"):
        load_model(path, diagnostics=Diagnostics())


@pytest.mark.parametrize(
    "name", ["$(touch x)", "a;b", "`id`", "../../etc/passwd\n", "x\0y", "-", "a" * 9000, ""]
)
def test_names_are_data(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InputError):
        load_model(name, diagnostics=Diagnostics())
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_a_strange_name(tmp_path: Path) -> None:
    folder = tmp_path / "$(id); `x`"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}', encoding="utf-8")
    graph = load_model(folder, diagnostics=Diagnostics())
    assert (graph.name, graph.checkpoint_weight_fmt) == ("$(id); `x`", "fp8")


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**40),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(path=st.sampled_from(CONFIGS), data=st.data())
@settings(max_examples=120, deadline=None, derandomize=True)
def test_any_damage_gives_a_model_or_one_input_error(path: Path, data: st.DataObject) -> None:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    holder = values
    nested = [key for key, value in values.items() if isinstance(value, dict)]
    if nested and data.draw(st.booleans()):
        holder = values[data.draw(st.sampled_from(nested))]
    for key in data.draw(st.lists(st.sampled_from(sorted(holder)), max_size=3, unique=True)):
        holder[key] = data.draw(JUNK)
    try:
        graph = model(values)
    except InputError:
        return
    assert graph.num_params > 0
    assert 0 < graph.num_active_text_params <= graph.num_text_params
