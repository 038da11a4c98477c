"""The serving section of the scoreboard: data for its JSON, and the page that is written from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

from planner.accuracy.serving.intervals import coverage_left_out
from planner.accuracy.serving.predict import METRICS
from planner.accuracy.serving.score import (
    Choice,
    ScoredRun,
    choices,
    coverage,
    errors_of,
    refusals,
    regret_summary,
    score_runs,
)
from planner.accuracy.serving.setup import has_experts

SPLIT = (
    "No row of this table is free of all influence: every source has been looked at while forms were chosen. "
    "Constants of TensorRT-LLM and SGLang were fitted on nvidia-aic-gap-analysis (dense rows on H100 and "
    "H200, Qwen3-235B-A22B) and carried over to vLLM, whose request and launch times were judged with the "
    "vLLM rows of inferencex-via-aic in view. No constant was fitted on inferencex-via-aic, but the forms "
    "were chosen with its rows in view: bursts of closed loops, the queue in front of a decode pool, the "
    "rule that reads places of decode workers from a sweep (made on its disaggregated rows, so these are no "
    "test of it), what its public recipes say of places, of prompts that wait until all attention ranks have "
    "one, and of which runs draft tokens, experts that follow the tokens of all ranks, that TensorRT-LLM "
    "runs the quickest NVFP4 product that any engine was measured with (its own rows of B200 showed it; "
    "those of GB200 and GB300 agree), that launches run ahead of the device, and that layers launch in "
    "proportion to their kernels. The exponent with which launches and device meet is a round figure; what "
    "the front end of TensorRT-LLM takes per request was fitted on nvidia-aic-gap-analysis. The all-reduce "
    "of L40S servers was set to that of hosts with peer access after their published rows were seen, so "
    "these are no test of it. Offline runs follow published numbers of requests and rules of a flow shop; "
    "nothing was fitted on them. Spreads were set with all three sources in view, those of highest "
    "throughputs on trtllm-perf-overview; the column `set elsewhere` is the share inside when the width is "
    "set on the other sources of the mode alone. What no source of runs has touched are the kernels: they "
    "come from kernel tables alone, those of GH200, and of B300 and GB300 in part, from other devices of "
    "their family."
)
SECTION_TITLE = "\n# Accuracy of served models\n"
_FITTED_SOURCE = "nvidia-aic-gap-analysis"
_TARGETS = {("dense", "tpot"): 10.0, ("dense", "ttft"): 25.0}
_MAX_SHOWN = 8


def board_data(runs: Sequence[ScoredRun]) -> dict[str, object]:
    """Return the section as plain data."""
    found = choices(runs)
    dense = {id(run) for run in runs if run.setup is not None and not has_experts(run.setup.model)}
    priced_dense = [run for run in runs if id(run) in dense]
    return {
        "split": SPLIT,
        "lines": _lines(runs),
        "scores": [asdict(score) for score in score_runs(runs)],
        "refusals": refusals(runs),
        "num_rows": len(runs),
        "regret": regret_summary(found),
        "regret_dense": regret_summary(choices(priced_dense)),
        "worst_choices": [asdict(choice) for choice in _worst(found)],
    }


def board_page(data: dict[str, object]) -> str:
    """Return the section as Markdown."""
    lines = cast("list[dict[str, object]]", data["lines"])
    parts = [
        SECTION_TITLE,
        f"\n{data['split']} Errors are medians of absolute errors in percent of what was measured.\n",
        "\n| models | source | mode | metric | rows | median | p90 | bias | in 90 % | set elsewhere | "
        "target | met | fitted |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        *(_line_text(line) for line in lines),
        _regret_text("all models", cast("dict[str, float]", data["regret"])),
        _regret_text("dense models", cast("dict[str, float]", data["regret_dense"])),
        _refusal_text(data),
        _NOTES,
        "\n| source | device | engine | mode | metric | rows | refused | MAPE | p50 | p90 | bias | in 90 % | "
        "roofline p50 | constant p50 |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        *(_score_text(score) for score in cast("list[dict[str, object]]", data["scores"])),
    ]
    return "".join(parts)


_NOTES = """
What falls short, and why:

- Models with experts: kernels are predicted to 15-30 %, and routing is not recorded. Rows of DeepSeek-R1 hold
  runs with multi-token prediction, unsaid but for one image of TensorRT-LLM whose runs are refused: they look
  30 to 70 % faster per token than the same configuration without it. GPT-OSS on B200 takes 20 to 40 % less
  per token than its kernels in the tables. SGLang on B200 shows first tokens of 7 s at any load in some
  sweeps, which no prefill explains.
- Disaggregated TTFT: the places of a decode worker and how a router deals requests out are not recorded. With
  one place per client two requests meet on one worker and the second waits for a whole answer, or not.
- Dense regrets above 5 %: all but the first swap configurations that are predicted within 10 % of each
  other, most within 5, where the measured ones differ by 5 to 13 %: mostly four devices against two or eight.
- Configurations that differ in expert parallelism alone: measured steps with it take 0.52 to 2.0 times those
  without, for one model and device (DeepSeek-R1 0.6 on H200 and at short prompts on B200, 2.0 at long ones,
  Qwen3.5-397B 1.0 to 1.8), where kernels differ by a few percent. Recipes differ in what rows do not say
  (multi-token prediction is one such thing), and regrets of models with experts are nearly all of this kind.
- Pipelines of eight stages on RTX PRO 6000: up to 53 % too fast. What lacks grows with all sequences in
  flight (about 4 us each per step, with four stages as with eight); no other source shows it, so it was not
  fitted.
- TensorRT-LLM 0.20 on B200 ran without CUDA graphs by mistake, as its table says. The worst dense regret is
  there: one run of four devices has less than half the rate of runs of similar lengths.
- Offline runs of models with experts and a rank of attention per device are predicted 20 to 40 % too fast on
  Hopper, with 128 experts on eight devices above all: real routing loads the busiest device more, which no
  row records (kernel tables under power laws take 1.26 times the even ones there).
- PCIe devices depend on their host. Kernel tables of L40S hold two kinds, with 2 and with 20 GB/s between
  eight devices; runs are priced on the second, which is the kind that publishes.
- Small models with more than a hundred clients are limited by a front end. TensorRT-LLM's is taken to need
  19 ms per request (closed loops alone); others are not modelled, and one source streams no more than 22,000
  tokens per second under SGLang whatever the devices.
- Launches in front of a first token: DeepSeek under TensorRT-LLM takes 150 ms for 1,000 tokens where the
  device needs 35, far more than its kernels by count (2.6 times a dense layer's); releases before 1.2 take
  two to four times that. First tokens of disaggregated runs at low load miss the same 60 ms.
- SGLang's published runs on Blackwell look for new requests every 10 (up to 8 clients) or 30 decode steps
  (recipes of InferenceX: scheduler-recv-interval), which rows do not say: 0.1 to 0.3 s of first tokens.
- Kimi-K2.5 with four ranks of attention on B200 has the very figures of the runs without: one of the two
  layouts is a slip of the table.
"""


def _lines(runs: Sequence[ScoredRun]) -> list[dict[str, object]]:
    groups: dict[tuple[str, str, str], list[ScoredRun]] = defaultdict(list)
    for run in runs:
        if run.setup is not None and run.prediction is not None:
            kind = "with experts" if has_experts(run.setup.model) else "dense"
            groups[kind, run.row.source, run.row.mode].append(run)
    lines: list[dict[str, object]] = []
    for (kind, source, mode), members in sorted(groups.items()):
        elsewhere = [
            run
            for (other_kind, other, other_mode), found in groups.items()
            if (other_kind, other_mode) == (kind, mode) and other != source
            for run in found
        ]
        for metric in METRICS:
            errors = errors_of(members, metric)
            if errors is not None:
                lines.append(
                    {
                        "models": kind,
                        "source": source,
                        "mode": mode,
                        "metric": metric,
                        "rows": len(members),
                        "coverage_90": coverage(members, metric),
                        "coverage_left_out": coverage_left_out(members, elsewhere, metric),
                        "target": _TARGETS.get((kind, metric)),
                        "fitted": source == _FITTED_SOURCE,
                        **asdict(errors),
                    }
                )
    return lines


def _worst(found: Sequence[Choice]) -> list[Choice]:
    return [choice for choice in sorted(found, key=lambda c: -c.regret)[:_MAX_SHOWN] if choice.regret > 0.0]


def _line_text(line: dict[str, object]) -> str:
    target = cast("float | None", line["target"])
    met = "-" if target is None else ("yes" if cast("float", line["p50"]) <= target else "no")
    return (
        f"| {line['models']} | {line['source']} | {line['mode']} | {line['metric']} | {line['rows']} | "
        f"{line['p50']:.1f} | {line['p90']:.1f} | {line['bias']:+.1f} | {_number(line['coverage_90'])} | "
        f"{_number(line['coverage_left_out'])} | "
        f"{'-' if target is None else f'{target:.0f}'} | {met} | {'yes' if line['fitted'] else 'no'} |\n"
    )


def _regret_text(which: str, told: dict[str, float]) -> str:
    if not told.get("num_groups"):
        return ""
    return (
        f"\nRegret of the first choice, {which}: {told['num_groups']} groups of alternatives, mean "
        f"{told['mean']:.1f} % (target 2), 90th percentile {told['p90']:.1f} %, worst {told['worst']:.1f} % "
        f"(target 5), mean rank correlation {told['mean_spearman']:.2f}.\n"
    )


def _refusal_text(data: dict[str, object]) -> str:
    reasons = cast("dict[str, dict[str, int]]", data["refusals"])
    total = sum(sum(found.values()) for found in reasons.values())
    share = 100.0 * total / max(cast("int", data["num_rows"]), 1)
    head = f"\n{total} of {data['num_rows']} rows refused ({share:.0f} %, target 25):\n\n"
    return head + "".join(
        f"- {count} rows of {source}: {reason}\n"
        for source, found in reasons.items()
        for reason, count in found.items()
    )


def _score_text(score: dict[str, object]) -> str:
    start = " | ".join(str(score[key]) for key in ("source", "device", "engine", "mode", "metric"))
    counts = f"{score['num_rows']} | {score['num_refused']}"
    model = cast("dict[str, float] | None", score["model"])
    roof, constant = (cast("dict[str, float] | None", score[key]) for key in ("roofline", "constant"))
    if model is None or roof is None or constant is None:
        return f"| {start} | {counts} | - | - | - | - | - | - | - |\n"
    return (
        f"| {start} | {counts} | {model['mape']:.1f} | {model['p50']:.1f} | {model['p90']:.1f} | "
        f"{model['bias']:+.1f} | {_number(score['coverage_90'])} | {roof['p50']:.0f} | "
        f"{constant['p50']:.0f} |\n"
    )


def _number(value: object) -> str:
    return "-" if value is None else f"{cast('float', value):.0f}"
