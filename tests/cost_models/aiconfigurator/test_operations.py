"""Work is asked of AIConfigurator's tables in its own terms; what it lacks is priced otherwise and said."""

import numpy as np
import pytest

from cost_models.aiconfigurator.operations import OTHER_SIGMA_LOG, OperationCosts
from cost_models.aiconfigurator.query import Query
from cost_models.formats import UnsupportedFormatError
from cost_models.library import device_cost_model
from cost_models.work import (
    Attention,
    Collective,
    ExpertGemm,
    Gemm,
    KvTransfer,
    LinkSpec,
    Span,
    StateScan,
    Stream,
)
from hardware_profiles.loader import load_device, load_software
from hardware_profiles.provenance import Provenance
from tests.cost_models.aiconfigurator.stub import StubTimes

NVLINK = LinkSpec(name="nvlink4", latency_s=1e-6, bandwidth_bytes_per_s=450e9, kind="nvlink")
WIRE = LinkSpec(name="ib400", latency_s=5e-6, bandwidth_bytes_per_s=50e9, kind="infiniband")
NODE = Span(ranks_per_level=(8,), links=(NVLINK,))
TWO_NODES = Span(ranks_per_level=(8, 2), links=(NVLINK, WIRE))
SPREAD = Span(ranks_per_level=(1, 4), links=(NVLINK, WIRE))


def costs(tables: StubTimes) -> OperationCosts:
    own = device_cost_model(load_device("h100"), load_software("trtllm"))
    return OperationCosts(tables=tables, own=own, facts=own.facts)


def attention(**changes: object) -> Attention:
    fields: dict[str, object] = {
        "phase": "decode",
        "batch": 4.0,
        "q_len": 1.0,
        "kv_len": 1000.0,
        "num_heads": 8.0,
        "num_kv_heads": 1.0,
        "head_dim": 128.0,
        "v_head_dim": 128.0,
    }
    return Attention(**{**fields, **changes})  # pyright: ignore[reportArgumentType] - as declared


def test_a_gemm_is_linear_between_whole_tokens_and_free_without_any() -> None:
    tables = StubTimes()
    found = costs(tables).price(Gemm(m=np.array([0.0, 0.4, 1.0, 4096.0, 4096.25]), n=4096, k=8192))
    one = 2e-6 + 2 * 4096 * 8192 / 2e12
    per_token = 2 * 4096 * 8192 / 5e14
    expected = [0.0, one, one, 2e-6 + 4096 * per_token, 2e-6 + 4096.25 * per_token]
    np.testing.assert_allclose(found.time_s, expected, rtol=1e-9)
    assert tables.asked[0][0] == Query(family="gemm", shape=(4096, 8192, "bfloat16"))
    assert found.provenance is Provenance.CALIBRATED
    assert found.origin == "stub tables 0"


@pytest.mark.parametrize(
    ("work", "query"),
    [
        (Gemm(m=1, n=64, k=32, fmt="fp8_block"), Query(family="gemm", shape=(64, 32, "fp8_block"))),
        (attention(), Query(family="generation_attention", shape=(8, 1, "bfloat16", 0, 128))),
        (attention(kv_fmt="fp8"), Query(family="generation_attention", shape=(8, 1, "fp8", 0, 128))),
        (
            attention(phase="prefill", q_len=600.0, window=64.0),
            Query(family="context_attention", shape=(8, 1, "bfloat16", "bfloat16", 64, 128)),
        ),
        (
            attention(kind="mla_absorbed", head_dim=576.0, v_head_dim=512.0),
            Query(family="generation_mla", shape=(8, "bfloat16")),
        ),
        (
            attention(phase="prefill", kind="mla_expanded", head_dim=192.0, q_len=9.0),
            Query(family="context_mla", shape=(8, "bfloat16", "bfloat16")),
        ),
        (
            ExpertGemm(num_tokens=64, hidden=7168, inter=2048, top_k=8, num_experts=256, ep=8, fmt="fp8"),
            Query(family="moe", shape=(7168, 2048, 8, 256, 1, 8, "fp8", "balanced", 1, True, True)),
        ),
        (Collective(op="all_reduce", num_bytes=2048, span=NODE), Query(family="all_reduce", shape=(1024, 8))),
        (
            Collective(op="all_reduce", num_bytes=2048, span=TWO_NODES),
            Query(family="all_reduce", shape=(1024, 16)),
        ),
        (
            Collective(op="all_to_all", num_bytes=2048, span=NODE),
            Query(family="nccl", shape=("alltoall", 1024, 8, "half")),
        ),
        (
            Collective(op="p2p", num_bytes=2048, span=Span(ranks_per_level=(2,), links=(WIRE,))),
            Query(family="p2p", shape=(1024, 2)),
        ),
    ],
)
def test_work_is_asked_in_the_terms_of_the_tables(work: object, query: Query) -> None:
    tables = StubTimes()
    model = costs(tables)
    assert model.price(work).time_s.shape == ()  # pyright: ignore[reportArgumentType] - any work
    assert tables.asked[0][0] == query
    assert model.fallbacks == {}


def test_prefill_states_new_and_cached_tokens_and_shares_of_prompts_are_linear() -> None:
    tables = StubTimes()
    work = attention(phase="prefill", batch=np.array([1.0, 1.5]), q_len=600.0)
    found = costs(tables).price(work)
    assert {point[1:] for _, points in tables.asked for point in points} == {(600, 400)}
    per_prompt = 600 * (300 + 400) * 4 * 8 * 128 / 3e14
    np.testing.assert_allclose(found.time_s, [4e-6 + per_prompt, 4e-6 + 1.5 * per_prompt], rtol=1e-9)


def test_moved_bytes_are_a_launch_and_a_bandwidth() -> None:
    found = costs(StubTimes()).price(Stream(num_bytes=np.array([0.0, 5e9]), num_kernels=2.0))
    np.testing.assert_allclose(found.time_s, [6e-6, 6e-6 + 2e-3], rtol=1e-6)


def test_one_rank_has_nothing_to_exchange() -> None:
    tables = StubTimes()
    alone = Collective(op="all_reduce", num_bytes=1e6, span=Span(ranks_per_level=(1,), links=(NVLINK,)))
    assert float(costs(tables).price(alone).time_s) == 0.0
    assert tables.asked == []


@pytest.mark.parametrize(
    ("work", "named"),
    [
        (StateScan(phase="decode", num_tokens=4.0, batch=4.0, state_elems=1e5), "StateScan"),
        (KvTransfer(num_bytes=1e9, link=WIRE), "KvTransfer"),
        (attention(head_dim=80.0, v_head_dim=64.0), "decode attention"),
        (attention(kind="mla_absorbed", head_dim=320.0, v_head_dim=256.0), "mla_absorbed"),
        (Collective(op="all_reduce", num_bytes=1e6, span=SPREAD), "all_reduce over 4"),
        (Collective(op="p2p", num_bytes=1e6, span=Span(ranks_per_level=(2,), links=(NVLINK,))), "p2p"),
        (Gemm(m=4.0, n=64.0, k=64.0, fmt="int8"), "Gemm in int8"),
    ],
)
def test_what_the_tables_lack_is_priced_by_the_own_model_and_said(work: object, named: str) -> None:
    model = costs(StubTimes())
    found, own = model.price(work), model.own.price(work)  # pyright: ignore[reportArgumentType] - any work
    assert float(found.time_s) == float(own.time_s)
    assert found.provenance >= Provenance.ANALYTICAL
    assert any(named in remark for remark in model.remarks()[1:])


def test_missing_rows_fall_back_with_the_reason() -> None:
    model = costs(StubTimes(missing=["moe"]))
    work = ExpertGemm(num_tokens=64, hidden=4096, inter=1024, top_k=2, num_experts=8, skew=1.3)
    assert float(model.price(work).time_s) == float(model.own.price(work).time_s)
    assert "no rows for moe" in model.remarks()[1]


def test_skewed_experts_are_asked_with_the_power_law_that_has_rows() -> None:
    tables = StubTimes()
    work = ExpertGemm(num_tokens=64, hidden=4096, inter=1024, top_k=2, num_experts=8, skew=1.3)
    costs(tables).price(work)
    assert tables.asked[0][0].shape[7] == "power_law_1.2"


def test_borrowed_answers_are_less_certain() -> None:
    work = Collective(op="all_gather", num_bytes=1e6, span=NODE)
    measured, borrowed = costs(StubTimes()).price(work), costs(StubTimes(borrowed=["nccl"])).price(work)
    assert borrowed.provenance is Provenance.ANALYTICAL
    assert float(measured.sigma_log) == pytest.approx(OTHER_SIGMA_LOG)
    assert float(borrowed.sigma_log) > float(measured.sigma_log)


def test_formats_that_the_device_lacks_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedFormatError, match="nvfp4"):
        costs(StubTimes()).price(Gemm(m=4.0, n=64.0, k=64.0, fmt="nvfp4"))
