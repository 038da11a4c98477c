"""Readers of scheduling instances: what they read, and how they refuse what is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.errors import InputError
from planner.frontend.instance_text import InstanceSettings
from planner.frontend.instances import INSTANCE_IMPORTERS, format_of, read_instance

DATA = Path(__file__).resolve().parents[1] / "data" / "scheduling"


@pytest.mark.parametrize(
    ("file", "fmt", "num_tasks", "num_resources", "num_modes"),
    [
        ("psplib/j3010_1.sm", "psplib", 32, 4, 32),
        ("psplib/j1019_1.mm", "psplib", 12, 4, 32),
        ("fjsp/fattahi1.txt", "fjsp", 4, 2, 8),
        ("fajsp/fattahi1-graph.txt", "fajsp", 4, 2, 8),
        ("fjsp/ft06_edata.txt", "fjsp", 36, 6, 42),
        ("jsp/ft06.txt", "jsp", 36, 6, 36),
        ("stg/rand0000.stg", "stg", 52, 1, 52),
        ("wfformat/diamond.json", "wfformat", 4, 4, 16),
    ],
)
def test_recognised_and_read(file: str, fmt: str, num_tasks: int, num_resources: int, num_modes: int) -> None:
    path = DATA / file
    assert format_of(path, path.read_text()) == fmt
    problem = read_instance(path)
    assert len(problem.tasks) == num_tasks
    assert len(problem.resources) == num_resources
    assert sum(len(t.modes) for t in problem.tasks) == num_modes


def test_both_forms_of_a_shop_hold_the_same_problem() -> None:
    jobs = read_instance(DATA / "fjsp" / "fattahi1.txt")
    graph = read_instance(DATA / "fajsp" / "fattahi1-graph.txt")
    times = [[(m.duration_s, m.demands) for m in t.modes] for t in jobs.tasks]
    assert [[(m.duration_s, m.demands) for m in t.modes] for t in graph.tasks] == times
    assert set(jobs.lags) == set(graph.lags)


def test_multi_mode_entries_are_where_they_belong() -> None:
    problem = read_instance(DATA / "psplib" / "j1019_1.mm")
    assert [r.renewable for r in problem.resources] == [True, True, False, False]
    assert [t.name for t in problem.tasks[:2]] == ["1", "2"]


def test_workflow_files_cost_time_between_machines() -> None:
    problem = read_instance(DATA / "wfformat" / "diamond.json")
    waits = {(g.before, g.after): g.off_site_s for g in problem.lags}
    assert waits == {(0, 1): 1.0, (0, 2): 2.0, (1, 3): 0.0, (2, 3): 0.0}
    assert [m.duration_s for m in problem.tasks[1].modes] == [8, 8, 4, 2]


@pytest.mark.parametrize(
    ("fmt", "text", "line", "words"),
    [
        ("jsp", "2 2\n0 3 1 4\n1 2 1 5\n", 3, "each machine once"),
        ("jsp", "2 2\n0 3 1 4\n", 2, "the file ends"),
        ("jsp", "999999 999999\n", 1, "too many"),
        ("fjsp", "1 2 x\n1 1 1 3\n", 1, "flexibility"),
        ("fjsp", "1 2\n1 1 7 3\n", 2, "unknown machine"),
        ("fjsp", "1 2\n1 1 1 -3\n", 2, "a time"),
        ("fajsp", "2 1 1\n0 2 0\n1 0 3\n1 0 3\n", 2, "unknown operation"),
        ("fajsp", "2 1 1\n0 1 0\n1 0 3\n1 1 3\n", 4, "unknown machine"),
        ("fajsp", "2 1\n0 1 0\n", 1, "precedences"),
        ("fajsp", "1 0 1\n1 0 3\n7\n", 2, "more numbers"),
        ("stg", "1\n0 0 0\n1 2 1 5\n2 0 1 1\n", 3, "earlier task"),
        ("stg", "99999999999999999999\n", 1, "whole number"),
    ],
)
def test_broken_text_is_refused_with_its_line(fmt: str, text: str, line: int, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        INSTANCE_IMPORTERS.get(fmt).read(text, file="f.txt", settings=InstanceSettings())
    assert (caught.value.file, caught.value.line) == ("f.txt", line)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "  1        1          3           2   3   4",
            "  1        1          3           2   3",
            "successors",
        ),
        (
            "  1        1          3           2   3   4",
            "  1        1          3           2   3  77",
            "unknown",
        ),
        ("R 1  R 2  N 1  N 2\n ", "R 1  R 2  N 1  N 2\n 5 ", "needs 4 amounts"),
    ],
)
def test_broken_project_is_refused(old: str, new: str, words: str) -> None:
    text = (DATA / "psplib" / "j1019_1.mm").read_text()
    broken = text[: text.rindex("R 1")] + text[text.rindex("R 1") :].replace(old, new)
    broken = broken.replace(old, new) if broken == text else broken
    assert broken != text
    with pytest.raises(InputError, match=words):
        INSTANCE_IMPORTERS.get("psplib").read(broken, file="f.mm", settings=InstanceSettings())


def _project_lines() -> list[str]:
    return (DATA / "psplib" / "j1019_1.mm").read_text().splitlines()


def test_lines_twice_or_missing_are_refused() -> None:
    lines = _project_lines()
    first = next(i for i, line in enumerate(lines) if line.startswith("PRECEDENCE")) + 2
    mode = next(i for i, line in enumerate(lines) if line.startswith("REQUESTS")) + 4
    cases = {
        "a line already": [*lines[: first + 1], *lines[first:]],
        "not one per mode": [*lines[: mode + 1], *lines[mode + 2 :]],
    }
    for words, broken in cases.items():
        with pytest.raises(InputError, match=words):
            INSTANCE_IMPORTERS.get("psplib").read("\n".join(broken), file="f.mm", settings=InstanceSettings())


@pytest.mark.parametrize(
    "file", ["psplib/j1019_1.mm", "fjsp/fattahi1.txt", "stg/rand0000.stg", "jsp/ft06.txt"]
)
def test_white_space_and_line_ends_mean_nothing(file: str) -> None:
    text = (DATA / file).read_text()
    fmt = format_of(DATA / file, text)
    assert fmt is not None
    other = "\r\n\r\n".join(line.replace(" ", "\t ") + "  " for line in text.splitlines())
    reader = INSTANCE_IMPORTERS.get(fmt)
    settings = InstanceSettings()
    assert reader.read(other, file="f", settings=settings) == reader.read(text, file="f", settings=settings)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"runtimeInSeconds": 4', '"runtimeInSeconds": "4"', "not a number"),
        (
            '["left", "right"],\n         "inputFiles": []',
            '["gone"],\n         "inputFiles": []',
            "unknown task",
        ),
        ('"execution": {', '"execution": [', "not JSON"),
        ('{"id": "split", "runtimeInSeconds": 4},', "", "without a runtime"),
    ],
)
def test_broken_workflow_is_refused(old: str, new: str, words: str) -> None:
    text = (DATA / "wfformat" / "diamond.json").read_text()
    assert old in text
    with pytest.raises(InputError, match=words):
        INSTANCE_IMPORTERS.get("wfformat").read(text.replace(old, new), file="f", settings=InstanceSettings())


def test_unknown_text_and_missing_file_are_input_errors(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("no instance at all")
    with pytest.raises(InputError, match="no instance format"):
        read_instance(other)
    with pytest.raises(InputError, match="cannot read"):
        read_instance(tmp_path / "missing.sm")
    other.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not text"):
        read_instance(other)
