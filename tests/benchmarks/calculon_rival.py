"""Plan the same training cases as Calculon does and with Newel, and price both plans by Calculon's formulas.

    python -m tests.benchmarks.calculon_rival [--only WORDS] [--json FILE] [--own]

Calculon's plan is the optimum of its own option space by full enumeration, at exactly the global batch asked
for; Newel's is the optimum of Newel's space, found by Newel's search with Calculon's prices. With ``--own``
Newel also plans by its own costs, and says what it thinks of Calculon's plan.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import Any

from planner.errors import NewelError
from planner.pipeline import Run, make_plan
from tests.benchmarks.calculon.machine import A100_80G, GIB, MODELS
from tests.benchmarks.calculon.options import Best, Question, best_of, words
from tests.benchmarks.calculon.pricing import RECOMPUTES, Executions
from tests.benchmarks.calculon.search import newel_config, newel_model, search

ROUNDING = 1e-9
"""Steps that differ by less are the same but for the order of their sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model on so many A100; `offload` lets both use host memory."""

    model: str
    num_devices: int
    global_batch: int
    offload: bool = False

    @property
    def name(self) -> str:
        """The case in a few words."""
        return f"{self.model} on {self.num_devices}, batch {self.global_batch}" + (
            ", offload" if self.offload else ""
        )

    @property
    def question(self) -> Question:
        """The case as a question to the option space."""
        return Question(
            model=MODELS[self.model],
            num_devices=self.num_devices,
            global_batch=self.global_batch,
            offload=self.offload,
        )


PUBLISHED = (("22B", 8, 4), ("175B", 64, 64), ("530B", 280, 280), ("1T", 512, 512))
"""Models, devices and batches of Korthikanti et al. 2022, table 5, which Calculon is validated on."""
CASES = (
    *(Case(model=m, num_devices=n, global_batch=b) for m, n, b in PUBLISHED),
    Case(model="22B", num_devices=64, global_batch=64),
    Case(model="175B", num_devices=512, global_batch=1536),
    Case(model="530B", num_devices=2240, global_batch=2240),
    Case(model="530B", num_devices=512, global_batch=512),
    Case(model="1T", num_devices=3072, global_batch=3072),
    *(Case(model=m, num_devices=4096, global_batch=4096) for m in MODELS),
    Case(model="175B", num_devices=60, global_batch=240),
    Case(model="530B", num_devices=128, global_batch=128, offload=True),
    Case(model="175B", num_devices=64, global_batch=64, offload=True),
    Case(model="1T", num_devices=512, global_batch=512, offload=True),
)


@dataclass(slots=True, kw_only=True)
class Answer:
    """A plan in words with Calculon's step time and memory; infinite where there is none."""

    words: str
    step_s: float
    device_gib: float
    num_options: int
    cpu_s: float


@dataclass(slots=True, kw_only=True)
class Record:
    """One case: Calculon's best, its best of what both have, Newel's, and what Newel's own costs say."""

    case: str
    whole: Answer
    common: Answer
    ours: Answer
    own: dict[str, float | str | None]

    @property
    def gain(self) -> float:
        """How much faster Newel's plan is than Calculon's best of what both have."""
        if self.common.step_s == self.ours.step_s:
            return 0.0
        return self.common.step_s / self.ours.step_s - 1.0


def rival(case: Case, *, common: bool) -> tuple[Answer, Best]:
    """Return Calculon's own best."""
    start = process_time()
    best = best_of(case.question, A100_80G, common=common)
    return Answer(
        words=words(best.runs) if best.runs is not None else "none",
        step_s=best.time_s,
        device_gib=best.device_bytes / GIB,
        num_options=best.num_options,
        cpu_s=process_time() - start,
    ), best


def ours(case: Case) -> Answer:
    """Return the optimum of Newel's space under Calculon's prices."""
    graph = newel_model(case.model, MODELS[case.model])
    start = process_time()
    found = search(graph, case.question, A100_80G)
    cpu_s = process_time() - start
    if found is None:
        inf = float("inf")
        return Answer(words="none", step_s=inf, device_gib=inf, num_options=0, cpu_s=cpu_s)
    return Answer(
        words=words(found.runs),
        step_s=found.time_s,
        device_gib=found.device_bytes / GIB,
        num_options=found.num_priced,
        cpu_s=cpu_s,
    )


def by_own_costs(case: Case, best: Executions | None) -> dict[str, float | str | None]:
    """Return the step of Newel's own plan under its own costs, and that of Calculon's plan."""
    nodes = max(case.num_devices // 8, 1)
    spec: dict[str, Any] = {
        "kind": "training",
        "model": newel_config(MODELS[case.model]),
        "cluster": f"{nodes}x8xa100@ib200" if nodes > 1 else "8xa100",
        "workload": {"global_batch": case.global_batch, "seq_len": MODELS[case.model].seq},
        "objective": "min_step_time",
        "software": "megatron-lm-2022",
        "flash_attention": False,
    }
    found: dict[str, float | str | None] = {"newel_s": _step_s(spec)}
    if best is not None:
        fixed = {name: int(getattr(best, name)[0]) for name in ("tp", "pp", "dp", "micro_batch")}
        recompute = RECOMPUTES[int(best.recompute[0])].replace("attn_only", "selective")
        zero = int(best.sharded[0])
        split = bool(best.tp[0] > 1 and best.comm[0] == 2)
        fixed |= {"num_chunks": int(best.laps[0]), "zero": zero}
        found["calculon_s"] = _step_s(
            {**spec, "fix": {**fixed, "recompute": recompute, "sequence_parallel": split}}
        )
    return found


def _step_s(spec: dict[str, Any]) -> float | str:
    """Return the step time of a spec's plan, or why there is none."""
    try:
        plan = make_plan(spec, Run())
    except NewelError as error:
        return str(error).splitlines()[0]
    value = plan.objective.value
    return "does not fit" if value is None else float(value)


def compare(case: Case, *, own: bool) -> Record:
    """Return one case with all answers."""
    whole, best = rival(case, common=False)
    common, _ = rival(case, common=True)
    return Record(
        case=case.name,
        whole=whole,
        common=common,
        ours=ours(case),
        own=by_own_costs(case, best.runs) if own and not case.offload else {},
    )


def row(record: Record) -> str:
    """Return one row of the table of docs/calculon.md."""

    def step(answer: Answer) -> str:
        return f"{answer.step_s:.3f}" if answer.words != "none" else "none"

    gain = "new" if record.common.words == "none" else f"{100.0 * record.gain:+.2f} %"
    cells = [
        record.case,
        f"{record.whole.num_options:,}",
        record.whole.words,
        step(record.whole),
        step(record.common),
        "the same" if record.ours.words == record.whole.words else record.ours.words,
        step(record.ours),
        f"{record.ours.device_gib:.1f}",
        gain if record.ours.words != "none" else "-",
        f"{record.whole.cpu_s:.0f} / {record.ours.cpu_s:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str]) -> int:
    """Compare the cases, print a row each, and return 1 if Newel is behind anywhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds these words")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--own", action="store_true", help="also plan by Newel's own costs")
    given = parser.parse_args(arguments)
    records: list[Record] = []
    for case in CASES:
        if all(word in case.name for word in given.only.split()):
            records.append(compare(case, own=given.own))
            sys.stdout.write(row(records[-1]) + f" {records[-1].own}\n")
            sys.stdout.flush()
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(r) for r in records], indent=1))
    behind = [r.case for r in records if r.ours.step_s > r.common.step_s * (1.0 + ROUNDING)]
    sys.stdout.write(f"{len(records)} cases, Newel behind in {len(behind)}: {', '.join(behind) or 'none'}\n")
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
