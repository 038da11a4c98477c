"""Flags of ``kind: training``."""

from __future__ import annotations

from planner.cli.flags import Flag

FLAGS = (
    Flag(name="model", keys=("model",), help="config.json, its directory, or a bundled name.", form="text"),
    Flag(name="cluster", keys=("cluster",), help="Cluster file or shorthand: 64x8xh100@ib400.", form="text"),
    Flag(name="global-batch", keys=("workload", "global_batch"), help="Sequences of one training step."),
    Flag(name="seq", keys=("workload", "seq_len"), help="Tokens of one training sequence."),
    Flag(name="lengths", keys=("workload", "lengths"), help="File of sequence lengths.", form="text"),
    Flag(name="tokens", keys=("workload", "tokens"), help="Tokens of the whole training run, e.g. 15T."),
    Flag(name="deadline", keys=("workload", "deadline"), help="Longest time of the run, e.g. 60d."),
    Flag(name="precision", keys=("precision",), help="Precisions allowed: bf16,fp8.", form="list"),
    Flag(name="recompute", keys=("recompute",), help="Allowed: none,selective,full.", form="list"),
    Flag(name="offload", keys=("offload",), help="Allowed: none,optimizer,...", form="list"),
    Flag(name="gradients", keys=("gradients",), help="Formats allowed: full,bf16,...", form="list"),
    Flag(name="schedule", keys=("schedule",), help="Pipeline schedules allowed.", form="list"),
    Flag(name="software", keys=("software",), help="Training software to predict.", form="text"),
    Flag(name="fix", keys=("fix",), help="Degrees to fix: tp=8,pp=2.", form="pairs"),
    Flag(name="assume-family", keys=("assume_family",), help="Family for an unknown model.", form="text"),
)  # fmt: skip
