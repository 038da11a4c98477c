"""Traces: formats, rate and burstiness, and rows that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.traces import arrival_rate_rps, burstiness, busy_rate_rps, read_trace
from planner.ir.trace import RequestTrace


def _read(tmp_path: Path, text: str, diagnostics: Diagnostics | None = None) -> RequestTrace:
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return read_trace(path, diagnostics or Diagnostics())


@pytest.mark.parametrize(
    "text",
    [
        "arrival,input,output\n5,10,20\n6.5,30,40\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.0000000,10,20\n2023-11-16 18:15:47.5000000,30,40\n",
        "\ufefft_s,input_tokens,output_tokens\r\n0.0,10,20\r\n1.5,30,40.0\r\n\r\n",
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,,1,ChatGPT,10,20,30,api\n6.5,,1,GPT-4,30,40,70,api\n",
        '{"timestamp": 0, "input_length": 10, "output_length": 20, "hash_ids": [1]}\n'
        '{"timestamp": 1500, "input_length": 30, "output_length": 40, "hash_ids": [1, 2]}\n',
    ],
)
def test_known_formats_give_the_same_trace(text: str, tmp_path: Path) -> None:
    trace = _read(tmp_path, text)
    assert trace.arrival_s == pytest.approx((0.0, 1.5))
    assert trace.input_tokens == (10, 30)
    assert trace.output_tokens == (20, 40)


def test_mooncake_prefixes_are_counted(tmp_path: Path) -> None:
    rows = [(0, 1024, [1, 2]), (10, 1024, [1, 3]), (20, 700, [1, 2])]
    text = "".join(
        f'{{"timestamp": {t}, "input_length": {n}, "output_length": 5, "hash_ids": {ids}}}\n'
        for t, n, ids in rows
    )
    # Hits: none, one block of 512, both blocks but at most the 700 tokens there are.
    assert _read(tmp_path, text).prefix_share == pytest.approx((512 + 700) / (1024 + 1024 + 700))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a trace in a known format"),
        ("a,b\n1,2\n", "not a trace in a known format"),
        ("arrival,input,output\n", "holds no requests"),
        ("arrival,input,output\n0,1,1\n2,1,1\n1,1,1\n", "trace.csv:4: arrival: arrives before"),
        ("arrival,input,output\n0,1,1\n1,-5,1\n", "trace.csv:3: input: not a number of tokens; got '-5'"),
        ("arrival,input,output\n-1,1,1\n", "trace.csv:2: arrival: arrival must not be negative"),
        ("arrival,input,output\n0,1\n", "trace.csv:2: row: row has too few cells"),
        ("arrival,input,output\n0,1,many\n", "trace.csv:2: output: not a number of tokens"),
        ("arrival,input,output\n0,nan,1\n", "not a number of tokens"),
        ("arrival,input,output\nyesterday,1,1\n", "neither seconds nor a date"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n[]\n', "trace.csv:2: not a JSON object"),
        (
            '{"timestamp": 5, "input_length": 1, "output_length": 1}\n'
            '{"timestamp": 4, "input_length": 1, "output_length": 1}\n',
            "trace.csv:2: timestamp: arrives before",
        ),
        ('{"timestamp": 5, "input_length": true, "output_length": 1}\n', "input_length: must be a number"),
        ('{"timestamp": 5, "input_length": 1, "output_length": 1, "hash_ids": "x"}\n', "hash_ids"),
    ],
)
def test_wrong_rows_are_refused_with_their_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _read(tmp_path, text)
    assert said in str(caught.value)


def test_empty_requests_are_left_out_and_said(tmp_path: Path) -> None:
    diagnostics = Diagnostics()
    trace = _read(tmp_path, "arrival,input,output\n0,1,1\n1,5,0\n2,1,1\n", diagnostics)
    assert trace.num_requests == 2
    assert [entry.code for entry in diagnostics.entries] == ["trace-empty-requests"]


def _arriving(*times: float) -> RequestTrace:
    ones = (1,) * len(times)
    return RequestTrace(source="t", arrival_s=times, input_tokens=ones, output_tokens=ones)


def test_rate_and_burstiness() -> None:
    assert arrival_rate_rps(_arriving(0.0, 1.0, 2.0, 4.0)) == pytest.approx(0.75)
    assert burstiness(_arriving(0.0, 1.0, 2.0, 3.0), Diagnostics()) == pytest.approx(0.0)
    # Gaps 1 and 3: mean 2, variance 1, squared coefficient of variation 1/4.
    assert burstiness(_arriving(0.0, 1.0, 4.0), Diagnostics()) == pytest.approx(0.25)


def test_the_busy_rate_is_that_of_the_minutes_that_a_share_of_the_requests_see() -> None:
    # Nine quiet minutes of 300 requests, one of 900: three quarters of the requests arrive in quiet ones.
    per_minute = [300] * 9 + [900]
    times = [60.0 * m + 60.0 * i / n for m, n in enumerate(per_minute) for i in range(n)] + [600.0]
    trace = _arriving(*times)
    assert busy_rate_rps(trace, 0.99) == pytest.approx(15.0, rel=0.01)
    assert busy_rate_rps(trace, 0.5) == pytest.approx(arrival_rate_rps(trace))
    assert busy_rate_rps(trace, 0.5) <= busy_rate_rps(trace, 0.9) <= busy_rate_rps(trace, 0.99)
    # Too short for windows that say more than chance.
    assert busy_rate_rps(_arriving(0.0, 1.0, 1.1, 1.2), 0.99) == pytest.approx(3 / 1.2)


def test_a_coarse_clock_is_no_burst() -> None:
    diagnostics = Diagnostics()
    slotted = _arriving(*(3.0 * (i // 10) for i in range(100)))
    assert burstiness(slotted, diagnostics) == pytest.approx(0.0, abs=1e-12)
    assert [entry.code for entry in diagnostics.entries] == ["trace-slotted-times"]


def test_a_trace_without_extent_has_no_rate() -> None:
    with pytest.raises(InputError, match=r"no rate.*State workload\.rate"):
        arrival_rate_rps(_arriving(0.0))


def test_sessions_tenants_and_priorities_are_read_where_they_are_given(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("arrival,input,output,session_id,user,priority\n0,1,1,a,x,3\n1,1,1,b,x,0\n2,1,1,a,y,-1\n")
    trace = read_trace(path, Diagnostics())
    assert trace.session[0] == trace.session[2] != trace.session[1]
    assert trace.tenant[0] == trace.tenant[1] != trace.tenant[2]
    assert trace.priority == (3, 0, -1)
    path.write_text("arrival,input,output,priority\n0,1,1,high\n")
    with pytest.raises(InputError, match="whole number"):
        read_trace(path, Diagnostics())


def test_mooncake_blocks_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [5, 6]}\n')
    trace = read_trace(path, Diagnostics())
    assert (trace.blocks, trace.block_tokens) == (((5, 6),), 512)
