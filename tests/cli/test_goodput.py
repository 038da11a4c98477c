"""``newel goodput``: figures that follow from its options by hand, and what it refuses."""

from __future__ import annotations

import json
import math

import pytest

from planner.cli.main import main

RUN = ["--gpus", "1000", "--gpu-mtbf", "1000h", "--checkpoint", "1TB", "--restart", "5min"]
STORE = ["--tier", "store,write=100GB/s,read=50GB/s"]


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["goodput", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_figures_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, *RUN, *STORE, "--work", "100h", "--price", "2", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["mtbf_s"] == pytest.approx(3600)
    checkpoint = found["checkpoint"]
    assert checkpoint["tier"]["blocking_s"] == pytest.approx(10)
    assert checkpoint["tier"]["load_s"] == pytest.approx(20)
    assert checkpoint["young_interval_s"] == pytest.approx(math.sqrt(2 * 10 * 3600))
    interval = checkpoint["interval_s"]
    expected = interval / 3600 / (math.exp(320 / 3600) * math.expm1((interval + 10) / 3600))
    assert checkpoint["efficiency"] == pytest.approx(expected)
    assert found["goodput"] == pytest.approx(expected)
    assert found["wall_s"] == pytest.approx(360_000 / expected)
    assert found["cost_usd"] == pytest.approx(found["wall_s"] / 3600 * 1000 * 2)
    parts = found["parts_s"]
    assert sum(v for k, v in parts.items() if k.endswith("_s")) == pytest.approx(found["wall_s"])


def test_token_budget_and_spares(capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["--step-time", "10s", "--tokens-per-step", "4M", "--tokens", "1T"]
    nodes = ["--repair", "24h", "--broken", "50%", "--step-spread", "1%"]
    code, out, _ = _run(capsys, *RUN, *STORE, *steps, *nodes, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["num_steps"] == 250_000
    assert found["parts_s"]["useful_s"] == pytest.approx(2.5e6)
    assert found["parts_s"]["straggler_s"] > 0
    # 125 nodes, one in 250 h broken: 12 in repair on average.
    assert 12 < found["spares"]["num_spares"] < 30
    assert found["num_gpus_with_spares"] == 1000 + 8 * found["spares"]["num_spares"]
    code, out, _ = _run(capsys, *RUN, *STORE, *steps, *nodes, "--spares", "0", "--policy", "shrink")
    assert code == 0
    assert "0 nodes, then shrink" in out


def test_two_tiers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(
        capsys, *RUN, *STORE, "--tier", "peers,write=10TB/s,survives=90%", "--work", "10d", "--price", "$2/h"
    )
    assert code == 0
    assert "of work to peers, every" in out
    assert "USD for 1000 GPUs" in out


def test_a_published_rate(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--gpus", "16384", "--gpu-mtbf", "llama-3-405b", "--checkpoint", "5.7TB", "--restart", "10min"]
    code, out, _ = _run(capsys, *base, "--tier", "store,write=2TB/s", "--work", "54d", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["goodput"] > 0.9
    assert found["mtbf_s"] == pytest.approx(54 * 86400 / 419)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*RUN, *STORE], "length of the run"),
        ([*RUN, *STORE, "--work", "1d", "--tokens", "1T"], "length of the run"),
        ([*RUN, *STORE, "--work", "1e30d"], "--work"),
        ([*RUN, *STORE, "--work", "-1d"], "--work"),
        ([*RUN, *STORE, "--work", "nan"], "--work"),
        ([*RUN, *STORE, "--work", "54"], "--work"),
        ([*RUN, "--tier", "x", "--work", "1d"], "write bandwidth"),
        ([*RUN, "--tier", "x,write=0B/s", "--work", "1d"], "--tier"),
        ([*RUN, "--tier", "x,write=1GB/s,write=2GB/s", "--work", "1d"], "--tier"),
        ([*RUN, "--tier", "x,write=1GB/s,keeps=1", "--work", "1d"], "--tier"),
        ([*RUN, "--tier", "x,write=1TB/s,survives=90%", "--work", "1d"], "survives every failure"),
        ([*RUN, "--tier", "x,write=1B/s", "--work", "1d"], "no checkpoint is ever reached"),
        ([*RUN, *STORE, "--work", "1d", "--spares", "2"], "--repair"),
        ([*RUN, *STORE, "--work", "1d", "--repair", "9h", "--gpus-per-node", "3"], "whole"),
        ([*RUN, *STORE, "--work", "1d", "--repair", "9000000h"], "more nodes"),
        ([*RUN, *STORE, "--work", "1d", "--policy", "pray"], "spare policy"),
        ([*RUN, *STORE, "--work", "1d", "--step-spread", "$(id)"], "number"),
        ([*RUN, *STORE, "--work", "1d", "--price", "x"], "x"),
        (["--gpus", "0", *RUN[2:], *STORE, "--work", "1d"], "--gpus"),
        ([*RUN[:3], "lama-3-405b", *RUN[4:], *STORE, "--work", "1d"], "llama-3-405b"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, out, err = _run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
