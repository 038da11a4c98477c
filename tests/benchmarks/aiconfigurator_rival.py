"""Plan the same cases with AIConfigurator and with Newel under its costs, and price both plans under both.

    python -m tests.benchmarks.aiconfigurator_rival [--only WORDS] [--json FILE]

Needs the packages ``aiconfigurator`` and ``newel[aiconfigurator]``. AIConfigurator's plan is the best one of
its default run; Newel's is the optimum of `costs: aiconfigurator-workers`. Under AIConfigurator's costs its
own plan has the rate that it states; Newel's pools are estimated again by its own `cli_estimate`: one pair of
pools as a whole, with its rate matching; several unequal pools by adding its rates per worker, matched by its
own factors. Under Newel's own costs both are capacities within the same limits on means, with queues.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from math import ceil
from pathlib import Path
from time import process_time
from typing import Any

from planner.errors import NewelError
from planner.ir.strategy import ServingStrategy
from planner.pipeline import Run, make_plan, read
from planner.space.engine import installed_costs
from planner.space.evaluate import Evaluator, FixedReplica
from tests.benchmarks.aiconfigurator_cases import CASES, Case

PREFILL_SHARE, DECODE_SHARE = 0.9, 0.92
"""AIConfigurator's factors of matched rates (aiconfigurator 0.12.0, sdk/sweep.py)."""
FORMATS = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_static": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_mxfp8",
}
ROUNDING = 1e-3
"""How far a rate of three digits may lie from the same rate in full."""
_DEGREES = ("tp", "pp", "dp", "moe_tp", "moe_ep")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOf:
    """Equal workers of a plan in AIConfigurator's terms: batch per rank and stage, prompt tokens a step."""

    role: str
    replicas: int
    tp: int
    pp: int
    dp: int
    moe_tp: int
    moe_ep: int
    batch: int
    prompt_tokens: int = 0

    def words(self) -> str:
        """Return the pool in a few words."""
        degrees = "".join(f" {n}{v}" for n in _DEGREES if (v := getattr(self, n)) > 1) or " tp1"
        letter = {"aggregated": "A", "prefill": "P", "decode": "D"}[self.role]
        chunk = f" c{self.prompt_tokens}" if self.prompt_tokens else ""
        return f"{self.replicas}{letter}{degrees} b{self.batch}{chunk}"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """A planner's answer, and what both cost models say of it; rates in requests per second."""

    pools: tuple[PoolOf, ...] = ()
    stated_rps: float = 0.0
    aic_rps: float = 0.0
    aic_ttft_ms: float = 0.0
    aic_tpot_ms: float = 0.0
    priced: str = ""
    newel_rps: float | None = None
    cpu_s: float = 0.0
    error: str = ""

    def words(self) -> str:
        """Return the plan in a few words."""
        return " + ".join(pool.words() for pool in self.pools) or self.error[:60] or "none"


@dataclass(slots=True, kw_only=True)
class Record:
    """One case with both answers; `gain` is Newel's rate over AIConfigurator's, under its costs."""

    case: Case
    rival: Outcome
    ours: Outcome
    formats: dict[str, str] = field(default_factory=dict[str, str])
    gain: float | None = None


def rival_plan(case: Case) -> tuple[Outcome, dict[str, str]]:
    """Return AIConfigurator's default answer and the formats that it took."""
    from aiconfigurator.cli.api import cli_default

    start = process_time()
    try:
        found = cli_default(
            case.model,
            case.devices,
            _system(case),
            backend=case.engine,
            isl=case.isl,
            osl=case.osl,
            ttft=case.ttft_ms,
            tpot=case.tpot_ms,
        )
        row: dict[str, Any] = found.best_configs[found.chosen_exp].iloc[0].to_dict()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises is its answer
        return Outcome(error=str(error).strip().splitlines()[-1][:200], cpu_s=process_time() - start), {}
    copies = case.devices // int(row["num_total_gpus"])
    pools = _rival_pools(row, copies)
    head = "(d)" if "(d)tp" in row else ""
    formats = {name: str(row[f"{head}{name}"]) for name in ("gemm", "moe", "kvcache")}
    outcome = Outcome(
        pools=pools,
        stated_rps=float(row["seq/s"]) * copies,
        aic_rps=float(row["seq/s"]) * copies,
        aic_ttft_ms=float(row["ttft"]),
        aic_tpot_ms=float(row["tpot"]),
        priced="its own row",
        cpu_s=process_time() - start,
    )
    return outcome, formats


def _rival_pools(row: dict[str, Any], copies: int) -> tuple[PoolOf, ...]:
    if "(d)tp" not in row:
        degrees = {name: int(row[name]) for name in _DEGREES}
        tokens = int(row["ctx_tokens"])
        pool = PoolOf(
            role="aggregated", replicas=copies, batch=int(row["bs"]), prompt_tokens=tokens, **degrees
        )
        return (pool,)
    return tuple(
        PoolOf(
            role=role,
            replicas=copies * int(row[f"({letter})workers"]),
            batch=int(row[f"({letter})bs"]),
            **{name: int(row[f"({letter}){name}"]) for name in _DEGREES},
        )
        for letter, role in (("p", "prefill"), ("d", "decode"))
    )


def spec_of(case: Case, formats: dict[str, str], costs: str) -> dict[str, object]:
    """Return the case as a Newel spec, in the formats that AIConfigurator took."""
    spec: dict[str, object] = {
        "kind": "serving",
        "model": case.ours,
        "cluster": f"{case.devices}x{case.device}",
        "workload": {"input_tokens": case.isl, "output_tokens": case.osl},
        "slo": {"ttft": f"{case.ttft_ms}ms", "tpot": f"{case.tpot_ms}ms"},
        "objective": "max_throughput",
        "engine": [case.engine],
        "costs": costs,
        "search": {"alternatives": 0},
    }
    if formats:
        weights = formats["moe"] if "mxfp4" in formats["moe"] else formats["gemm"]
        spec["formats"] = {"weights": [FORMATS[weights]], "kv": [FORMATS[formats["kvcache"]]]}
    return spec


def our_plan(case: Case, formats: dict[str, str]) -> Outcome:
    """Return Newel's optimum under AIConfigurator's estimates of workers."""
    start = process_time()
    try:
        plan = make_plan(spec_of(case, formats, "aiconfigurator-workers"), Run())
    except NewelError as error:
        return Outcome(error=str(error)[:200], cpu_s=process_time() - start)
    outcome = Outcome(cpu_s=process_time() - start)
    if plan.status == "infeasible":
        outcome.error = "infeasible"
        return outcome
    outcome.stated_rps = plan.predicted["request_rate_rps"].value
    pools: list[PoolOf] = []
    for pool in plan.pools:
        running = pool.predicted.get("running_sequences")
        batch = pool.limits["max_num_seqs"] if running is None else running.value / pool.strategy.pp
        pools.append(
            PoolOf(
                role=pool.role,
                replicas=pool.replicas,
                tp=pool.strategy.tp,
                pp=pool.strategy.pp,
                dp=pool.strategy.attention_dp,
                moe_tp=pool.strategy.moe_tp,
                moe_ep=pool.strategy.ep,
                batch=max(1, ceil(float(batch) - 1e-6)),
                prompt_tokens=int(pool.limits["token_budget"]) if pool.role == "aggregated" else 0,
            )
        )
    outcome.pools = tuple(pools)
    return outcome


def price_under_rival(case: Case, outcome: Outcome, formats: dict[str, str]) -> None:
    """Estimate a plan of Newel's by AIConfigurator's own evaluation of fixed configurations."""
    together = [pool for pool in outcome.pools if pool.role == "aggregated"]
    prefill = [pool for pool in outcome.pools if pool.role == "prefill"]
    decode = [pool for pool in outcome.pools if pool.role == "decode"]
    rate, ttft, tpot, how = 0.0, 0.0, 0.0, set[str]()
    for pool in together:
        row = _estimated(case, formats, pool)
        rate += pool.replicas * float(row["seq/s"])
        ttft, tpot = max(ttft, float(row["ttft"])), max(tpot, float(row["tpot"]))
        how.add("estimate")
    if prefill and decode:
        rows = [(p, d, _estimated_pair(case, formats, p, d)) for p in prefill for d in decode]
        ttft = max(ttft, *(float(row["ttft"]) for _, _, row in rows))
        tpot = max(tpot, *(float(row["tpot"]) for _, _, row in rows))
        if len(rows) == 1:
            rate += float(rows[0][2]["seq/s"])
            how.add("estimate")
        else:
            sent = {p: float(row["(p)seq/s/worker"]) * p.replicas for p, _, row in rows}
            taken = {d: float(row["(d)seq/s/worker"]) * d.replicas for _, d, row in rows}
            rate += min(PREFILL_SHARE * sum(sent.values()), DECODE_SHARE * sum(taken.values()))
            how.add("rates per worker, matched by its factors")
    if len(together) > 1 or (together and prefill):
        how.add("pools added")
    outcome.aic_rps, outcome.aic_ttft_ms, outcome.aic_tpot_ms = rate, ttft, tpot
    outcome.priced = "; ".join(sorted(how))


def price(case: Case, outcome: Outcome, formats: dict[str, str]) -> None:
    """Estimate a plan of either; AIConfigurator's keeps its own row where an estimate is not that rate again.

    Its rows are rounded to three digits, which an estimate is not.
    """
    stated = (outcome.aic_rps, outcome.aic_ttft_ms, outcome.aic_tpot_ms, outcome.priced)
    try:
        price_under_rival(case, outcome, formats)
    except (RuntimeError, ValueError, LookupError) as error:
        outcome.error = f"not estimated: {error}"[:200]
    if stated[0] > 0.0 and abs(outcome.aic_rps / stated[0] - 1.0) > ROUNDING:
        outcome.aic_rps, outcome.aic_ttft_ms, outcome.aic_tpot_ms, outcome.priced = stated


def _common(case: Case, formats: dict[str, str]) -> dict[str, Any]:
    return {
        "backend_name": case.engine,
        "isl": case.isl,
        "osl": case.osl,
        "kvcache_quant_mode": formats.get("kvcache"),
        "moe_quant_mode": formats["moe"] if "mxfp4" in formats.get("moe", "") else None,
    }


def _estimated(case: Case, formats: dict[str, str], pool: PoolOf) -> dict[str, Any]:
    from aiconfigurator.cli.api import cli_estimate

    found = cli_estimate(
        case.model,
        _system(case),
        mode="agg",
        batch_size=pool.batch,
        ctx_tokens=pool.prompt_tokens,
        tp_size=pool.tp,
        pp_size=pool.pp,
        attention_dp_size=pool.dp,
        moe_tp_size=pool.moe_tp,
        moe_ep_size=pool.moe_ep,
        **_common(case, formats),
    )
    return found.raw


def _estimated_pair(case: Case, formats: dict[str, str], prefill: PoolOf, decode: PoolOf) -> dict[str, Any]:
    from aiconfigurator.cli.api import cli_estimate

    sides: dict[str, Any] = {}
    for side, pool in (("prefill", prefill), ("decode", decode)):
        sides |= {
            f"{side}_tp_size": pool.tp,
            f"{side}_pp_size": pool.pp,
            f"{side}_attention_dp_size": pool.dp,
            f"{side}_moe_tp_size": pool.moe_tp,
            f"{side}_moe_ep_size": pool.moe_ep,
            f"{side}_batch_size": pool.batch,
            f"{side}_num_workers": pool.replicas,
        }
    return cli_estimate(case.model, _system(case), mode="disagg", **sides, **_common(case, formats)).raw


def price_under_newel(case: Case, outcome: Outcome, formats: dict[str, str]) -> None:
    """Work out what a plan carries within the limits under Newel's own costs; None if it does not fit."""
    problem = read(spec_of(case, formats, "newel"), Run())
    group, payload = problem.cluster.groups[0], problem.payload
    evaluator = Evaluator(
        model=payload.model,
        group=group,
        costs=installed_costs(group, case.engine),
        workload=payload.workload,
    )
    carried = dict.fromkeys(("aggregated", "prefill", "decode"), 0.0)
    for pool in outcome.pools:
        strategy = ServingStrategy(
            tp=pool.tp, pp=pool.pp, attention_dp=pool.dp, moe_tp=pool.moe_tp, ep=pool.moe_ep
        )
        fixed = FixedReplica(
            strategy=strategy,
            role=pool.role,  # pyright: ignore[reportArgumentType] - one of the three roles
            weight_fmt=payload.choices.weight_fmts[0],
            kv_fmt=payload.choices.kv_fmts[0],
            token_budget=pool.prompt_tokens + pool.batch if pool.prompt_tokens else case.isl * pool.batch,
            replicas=pool.replicas,
        )
        capacity = evaluator.capacity_rps(fixed)
        if capacity is None:
            return
        carried[pool.role] += capacity
    outcome.newel_rps = carried["aggregated"] + min(carried["prefill"], carried["decode"])


def run_case(case: Case) -> Record:
    """Return both answers to a case, priced under both cost models."""
    rival, formats = rival_plan(case)
    ours = our_plan(case, formats)
    record = Record(case=case, rival=rival, ours=ours, formats=formats)
    for outcome in (rival, ours):
        if outcome.pools:
            price_under_newel(case, outcome, formats)
    for outcome in (rival, ours):
        if outcome.pools:
            price(case, outcome, formats)
    if rival.aic_rps > 0.0:
        record.gain = ours.aic_rps / rival.aic_rps
    return record


def _system(case: Case) -> str:
    from cost_models.aiconfigurator.package import system_of

    return system_of(case.device)


def table(records: list[Record]) -> str:
    """Return the outcome as a Markdown table."""
    lines = [
        "| case (ISL/OSL, TTFT/TPOT ms) | AIConfigurator's default | req/s | Newel's plan | req/s "
        "| TTFT / TPOT ms | gain | under Newel's costs: AIC / Newel | CPU s: AIC / Newel |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        rival, ours = record.rival, record.ours
        own = " / ".join("-" if o.newel_rps is None else f"{o.newel_rps:.2f}" for o in (rival, ours))
        gain = (
            "-" if record.gain is None else f"{100 * (record.gain - 1) + 0.0:+.1f} %".replace("-0.0", "+0.0")
        )
        lines.append(
            f"| {record.case.name} | {rival.words()} | {rival.aic_rps:.2f} "
            f"| {ours.words()} | {ours.aic_rps:.2f} | {ours.aic_ttft_ms:.0f} / {ours.aic_tpot_ms:.1f} "
            f"| {gain} | {own} | {rival.cpu_s:.0f} / {ours.cpu_s:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the cases and print a table, and JSON to a file or after it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run the cases whose name holds these words")
    parser.add_argument("--json", type=Path, help="file for the JSON (stdout if none)")
    parser.add_argument("--skip", type=Path, help="JSON of an earlier run whose cases are not run again")
    given = parser.parse_args()
    known = json.loads(given.skip.read_text(encoding="utf-8"))["cases"] if given.skip else []
    skipped = {Case(**record["case"]).name for record in known}
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    records: list[Record] = []
    for case in (c for c in CASES if given.only in c.name and c.name not in skipped):
        records.append(run_case(case))
        sys.stderr.write(table(records[-1:]).splitlines()[-1] + "\n")
        text = json.dumps(
            {
                "versions": {
                    name: version(name) for name in ("aiconfigurator", "aiconfigurator-core", "newel")
                },
                "cases": [asdict(record) for record in records],
            },
            indent=1,
        )
        if given.json is not None:
            given.json.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(table(records) + "\n")
    if given.json is None:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
