"""Rules that every exported SGLang launch must pass; SGLang itself does not find all of these offline."""

from __future__ import annotations

from collections.abc import Iterator

from planner.backends._launch import (
    Launch,
    hold,
    known_flags,
    known_values,
    layer_partition,
    visible_devices,
)
from planner.backends._sglang_flags import CHOICES, ENVIRONMENT, FLAGS, SGLANG_VERSION


def check_launch(launch: Launch) -> None:
    """Hold a launch of SGLang against all rules.

    Raises
    ------
    InputError
        Naming the file, the flag and what is wrong with it.
    """
    hold(launch, _RULES)


def _world(launch: Launch) -> Iterator[tuple[str, str]]:
    nodes, ranks = launch.count("nnodes"), launch.count("tp-size") * launch.count("pp-size")
    if ranks != nodes * launch.num_devices:
        yield "tp-size", f"the sizes need {ranks} devices, the launch has {nodes} x {launch.num_devices}"
    elif launch.num_devices % launch.count("tp-size") and launch.count("tp-size") % launch.num_devices:
        yield "nnodes", "a process holds whole pipeline stages or an equal share of one"


def _degrees(launch: Launch) -> Iterator[tuple[str, str]]:
    ranks = launch.count("tp-size")
    attention = launch.count("attn-dp-size") * launch.count("attn-cp-size") * launch.count("dcp-size")
    if ranks % attention:
        yield "attn-dp-size", "attention data and context parallelism must divide tp-size together"
    if ranks % launch.count("ep-size"):
        yield "ep-size", "it must divide tp-size"
    has_context = "enable-prefill-cp" in launch.arguments
    if has_context != (launch.count("attn-cp-size") > 1):
        yield "enable-prefill-cp", "it goes together with an attn-cp-size above 1"


def _ranks(launch: Launch) -> Iterator[tuple[str, str]]:
    nodes, rank = launch.count("nnodes"), launch.count("node-rank", 0)
    if rank >= nodes:
        yield "node-rank", f"the ranks of {nodes} processes end at {nodes - 1}"
    if nodes > 1 and "dist-init-addr" not in launch.arguments:
        yield "dist-init-addr", "several processes need the address of the first"


def _pages(launch: Launch) -> Iterator[tuple[str, str]]:
    if launch.count("chunked-prefill-size") % launch.count("page-size"):
        yield "chunked-prefill-size", "it must be a multiple of page-size"


def _hand_over(launch: Launch) -> Iterator[tuple[str, str]]:
    is_prefill = launch.arguments.get("disaggregation-mode") == "prefill"
    listens = "port" in launch.arguments
    if is_prefill and listens and "disaggregation-bootstrap-port" not in launch.arguments:
        yield "disaggregation-bootstrap-port", "decode servers must find the prefill server's hand-over"


_RULES = (
    known_flags(f"SGLang {SGLANG_VERSION}", FLAGS, ENVIRONMENT),
    known_values(FLAGS, CHOICES),
    visible_devices,
    _world,
    _degrees,
    _ranks,
    _pages,
    _hand_over,
    layer_partition("SGLANG_PP_LAYER_PARTITION", "pp-size"),
)
