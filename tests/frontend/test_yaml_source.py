"""YAML from anyone: plain data with lines, or one message with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.errors import InputError
from planner.frontend.yaml_source import MAX_BYTES, dotted, parse_document, parse_scalar, read_document

LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)
DEEP_BY_ALIAS = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [[[[[[[[*a{i - 1}]]]]]]]]\n" for i in range(1, 9))


def test_values_and_lines() -> None:
    document = parse_document(
        "a: 1\nb:\n  c: [1, 2.5, x]\n  'on': on\n  t: 12:30\ne: 1e3\nf: {g: &x [1], h: *x}\n", file="s"
    )
    assert document.data == {
        "a": 1,
        "b": {"c": [1, 2.5, "x"], "on": "on", "t": "12:30"},
        "e": 1000.0,
        "f": {"g": [1], "h": [1]},
    }
    assert document.lines["b", "c"] == 3
    assert document.lines["b", "on"] == 4
    assert document.lines["e",] == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "s:1: not valid YAML"),
        ("a: 1\na: 2", "s:2: a: key stands twice"),
        ("x:\n  a: 1\n  a: 2", "s:3: x.a: key stands twice"),
        ("[" * 100_000, "nested too deeply"),
        (LAUGHS, "too many values"),
        (DEEP_BY_ALIAS, "nested too deeply"),
        ("x: &x [*x]", "alias *x has no anchor before it"),
        ("a: 1\nb: !!python/object:os.system x", "s:2: only plain YAML types are read"),
        ("!!binary aGk=", "only plain YAML types are read"),
        ("a: 1\n---\nb: 2", "s:3: more than one YAML document"),
        ("\x00", "not valid YAML"),
        ("? [1]\n: 2", "a key must be a word"),
        ("a: &b {c: 1}\nd: {<<: *b}", "merge keys"),
        ("1" * 100, "integer is absurdly long"),
        (" " * (MAX_BYTES + 1), "file is too large"),
    ],
)
def test_wrong_texts_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_document(text, file="s")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("1s", "1s"),
        ("true", True),
        ("~", None),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("x:y", "x:y"),
        ("-.inf", float("-inf")),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert parse_scalar(text) == value


def test_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_document(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="not a regular file"):
        read_document(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(InputError, match=r"latin\.yaml:2: not UTF-8 text"):
        read_document(latin)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a: 1\n" * (2 * 1024 * 1024))
    with pytest.raises(InputError, match="too large"):
        read_document(large)


def test_paths_in_words() -> None:
    assert dotted(("workload", "lengths", 2, "weight")) == "workload.lengths[2].weight"
