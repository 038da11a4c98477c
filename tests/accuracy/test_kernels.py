"""Kernel tables: their kind is detected, every row is priced or refused with a reason, errors are right."""

from pathlib import Path

import numpy as np
import pytest

from planner.accuracy.kernels import read_kernels, software_of, source_name
from planner.accuracy.score import errors, score_kernels
from planner.errors import InputError

DATA = Path(__file__).parents[1] / "data" / "kernels"


def table_of(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return read_kernels(path)


@pytest.mark.parametrize("kind", ["gemm", "attention", "moe", "collective"])
def test_the_kind_of_a_table_is_known_by_its_header_and_every_row_is_accounted_for(kind):
    table = read_kernels(DATA / f"{kind}.csv")
    scores = score_kernels(table)
    assert table.kind == kind
    assert sum(score.num_rows for score in scores) == table.num_rows
    assert sum(score.num_refused for score in scores) == 0


@pytest.mark.parametrize(
    ("kind", "most_percent"), [("gemm", 15.0), ("attention", 15.0), ("moe", 25.0), ("collective", 12.0)]
)
def test_predictions_are_close_on_measured_kernels_and_beat_the_roofline(kind, most_percent):
    scores = [s for s in score_kernels(read_kernels(DATA / f"{kind}.csv")) if s.num_rows >= 10]
    assert scores
    for score in scores:
        if "power_law" in score.fmt:
            continue
        assert score.model.mape < most_percent, score
        assert score.model.mape < 0.7 * score.roofline.mape, score


def test_rows_that_cannot_be_priced_are_counted_with_their_reason(tmp_path):
    table = table_of(
        tmp_path,
        "gpu,dtype,m,n,k,time_us,source\n"
        "h100,bf16,16,1024,1024,5,mine\n"
        "abacus,bf16,16,1024,1024,5,mine\n"
        "h100,bf16,,1024,1024,5,mine\n"
        "h100,bf16,16,1024,1024,-5,mine\n"
        "h100,bf16,16,many,1024,5,mine\n"
        "h100,bf16,16,nan,1024,5,mine\n"
        ",bf16,16,1024,1024,5,mine\n"
        "h100,float3,16,1024,1024,5,mine\n"
        "v100,fp32,16,1024,1024,5,mine\n",
    )
    scores = score_kernels(table)
    reasons = {reason for score in scores for reason in score.refusals}
    assert sum(s.num_rows for s in scores) == 9
    assert sum(s.num_refused for s in scores) == 7
    for said in ("no device profile is called 'abacus'", "m is blank", "time_us is not positive",
                 "n is not a finite number", "gpu is blank"):  # fmt: skip
        assert said in reasons
    assert any("float3" in reason for reason in reasons)


def test_missing_optional_columns_and_blank_cells_mean_the_usual_thing(tmp_path):
    full = table_of(
        tmp_path,
        "gpu,phase,batch,q_len,kv_len,heads,kv_heads,head_dim,window,q_dtype,kv_dtype,kind,time_us,source\n"
        "h100,decode,8,1,4096,32,32,128,0,bfloat16,bfloat16,gqa,50,x\n",
    )
    bare = table_of(
        tmp_path,
        "gpu,phase,batch,kv_len,heads,kv_heads,head_dim,window,time_us,notes\n"
        "h100,decode,8,4096,32,,128,,50,hello\n",
    )
    assert score_kernels(full)[0].model == score_kernels(bare)[0].model


def test_formats_without_arithmetic_are_priced_as_what_runs_and_it_is_said(tmp_path):
    table = table_of(tmp_path, "gpu,dtype,m,n,k,time_us\na100,fp8,16,4096,4096,20\n")
    score = score_kernels(table)[0]
    assert score.num_refused == 0
    assert "fp8 run as w8a16" in score.curve


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "matches no kind"),
        ("gpu,m,n,k,time_us\n", "no rows"),
        ("gpu,m,n,k,time_us\nh100,1,2\n", "another number of cells"),
        ("m,m,n,k,time_us\n1,1,1,1,1\n", "twice"),
        ("gpu,m,n,k,time_us\nh100," + "9" * 5000 + ",2,3,4\n", "field larger"),
    ],
)
def test_bad_tables_are_refused_in_one_message(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        table_of(tmp_path, text)


def test_a_missing_file_and_binary_content_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_kernels(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="UTF-8"):
        read_kernels(tmp_path / "binary.csv")


def test_errors_are_relative_to_the_measurement():
    found = errors(np.array([1.1, 0.8, 1.0]), np.ones(3))
    assert (found.mape, found.p50, found.bias) == (10.0, 10.0, -3.33)


def test_sources_name_engines():
    assert software_of("aic:vllm-0.24.0:flash") == "vllm-0.24.0"
    assert source_name("aic:vllm-0.24.0:flash") == "aic:vllm-0.24.0"
    assert software_of("my TensorRT-LLM runs") == "trtllm"
    assert software_of("somebody") == ""
