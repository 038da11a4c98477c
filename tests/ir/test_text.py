"""The IR's text form on trees worth reading, and on texts that are wrong."""

from __future__ import annotations

import pytest

from planner.errors import InputError
from planner.ir.model_graph import Layer, ModelGraph, Small
from planner.ir.parser import node_classes, parse_ir
from planner.ir.printer import HEADER, print_ir
from planner.ir.verifier import verify_ir
from planner.ir.workload import Slo


def _model() -> ModelGraph:
    def layer(kind: str) -> Layer:
        return Layer(kind=kind, ops=(Small(name="norm", num_params=8), Small(name="sink", num_params=2)))

    return ModelGraph(
        name='tiny; rm -rf "$HOME"',
        family="llama",
        architecture="LlamaForCausalLM",
        vocab_size=10,
        hidden_size=8,
        tied_embeddings=True,
        max_position=100,
        layers=(layer("dense"), *(layer("moe") for _ in range(5)), layer("dense")),
        embedding=(),
        head=(),
    )


def test_equal_nodes_are_written_once_and_read_back_as_one_object() -> None:
    text = print_ir(_model())
    assert text.count('"moe"') == 1
    assert " x 5" in text
    back = parse_ir(text)
    assert back == _model()
    assert isinstance(back, ModelGraph)
    assert back.layers[1] is back.layers[5]


def test_every_class_of_the_ir_can_stand_in_a_text() -> None:
    assert {
        "Problem",
        "ModelGraph",
        "Cluster",
        "SearchResult",
        "DeviceProfile",
        "Provenance",
    } <= node_classes().keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not an IR text"),
        ("newel-ir 99\nroot = none", "not an IR text"),
        (f"{HEADER}\n", "the root is missing"),
        (f"{HEADER}\nroot = Slo {{ttft_s: true}}", "Slo.ttft_s cannot be True"),
        (f"{HEADER}\nroot = Slo {{ttft_s: nan}}", "Slo.ttft_s cannot be nan"),
        (f"{HEADER}\nroot = Slo {{tfft_s: 1.0}}", "unexpected keyword argument 'tfft_s'"),
        (f"{HEADER}\nroot = Slow {{}}", "unknown class; got 'Slow'. Did you mean Slo?"),
        (f"{HEADER}\nroot = Path {{}}", "unknown class"),
        (f"{HEADER}\nroot = #1", "used before it is defined"),
        (f"{HEADER}\n#1 = #1\nroot = #1", "used before it is defined"),
        (f"{HEADER}\nroot = Slo {{}}\nroot = Slo {{}}", "text after the root"),
        (f"{HEADER}\nroot = [1 x 999999999]", "a run has no such length"),
        (f"{HEADER}\nroot = {'[' * 100}", "nested too deeply"),
        (f"{HEADER}\nroot = @", "unexpected character"),
        (f"{HEADER}\nroot = [" + "#1, " * 3, "used before it is defined"),
        (f"{HEADER}\nroot = {'9' * 5000}", "not a value"),
        (f'{HEADER}\nroot = {{"a": 1, "a": 2}}', "a stands twice"),
        (f"{HEADER}\nroot = Provenance.GUESSED", "unknown member"),
    ],
)
def test_wrong_texts_are_refused_with_one_message(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_ir(text, file="plan.json")
    assert said in str(caught.value)
    assert str(caught.value).startswith("plan.json:")


@pytest.mark.parametrize(
    "body", ["#1 = [1 x 100000]\n#2 = [#1 x 100000]\nroot = #2", "root = " + "[1 x 100000]," * 60]
)
def test_runs_cannot_fill_the_memory(body: str) -> None:
    body = body.replace("root = [", "root = [[", 1)
    with pytest.raises(InputError, match=r"too many values|only nodes are shared"):
        parse_ir(f"{HEADER}\n{body}")


def test_arrays_have_no_text_form() -> None:
    with pytest.raises(TypeError, match="no text form for set"):
        print_ir(Slo(ttft_s={1}))  # type: ignore[arg-type]


def test_the_verifier_names_the_path() -> None:
    assert verify_ir(Slo(ttft_s=-1.0)) == ["Slo: ttft_s must not be negative"]
