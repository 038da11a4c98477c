"""One rank of a pipeline under torch.distributed.pipelining; run by test_torch_pipelining.py.

usage: torch_pipeline_worker.py CONFIG.json RANK; needs torch alone. Runs the CSV of the configuration once
checked for gradients against all stages in one process, then against the clock, with stages that sleep
for their pass times. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

WIDTH = 8


class _SleepOnData(torch.autograd.Function):
    """Sleeps for F on the way forward and for I on the way back."""

    @staticmethod
    def forward(ctx, x, forward_s, backward_s):
        time.sleep(forward_s)
        ctx.backward_s = backward_s
        return x * 1.0

    @staticmethod
    def backward(ctx, grad):
        time.sleep(ctx.backward_s)
        return grad, None, None


class _SleepOnWeight(torch.autograd.Function):
    """Sleeps for W when the weight's gradient is made."""

    @staticmethod
    def forward(ctx, weight, backward_s):
        ctx.backward_s = backward_s
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, grad):
        time.sleep(ctx.backward_s)
        return grad, None


class Stage(torch.nn.Module):
    def __init__(self, index, times):
        super().__init__()
        generator = torch.Generator().manual_seed(1000 + index)
        self.weight = torch.nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5)
        self.times = times
        self.awake = True

    def forward(self, x):
        forward_s, input_s, weight_s = (0.0, 0.0, 0.0) if self.awake else self.times
        if not x.requires_grad:  # the first stage: its inner layers still need their inputs' gradients
            x = x.detach().requires_grad_(True)
        x = _SleepOnData.apply(x, forward_s, input_s)
        return torch.tanh(x @ _SleepOnWeight.apply(self.weight, weight_s).T)


def reference_gradients(config, inputs, targets):
    stages = [Stage(i, t) for i, t in enumerate(config["stage_times_s"])]
    count = config["num_microbatches"]
    whole = torch.nn.Sequential(*stages)
    for x, y in zip(inputs.chunk(count), targets.chunk(count), strict=True):
        (torch.nn.functional.mse_loss(whole(x), y) / count).backward()
    return [stage.weight.grad for stage in stages]


def main():
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rank, world = int(sys.argv[2]), config["num_ranks"]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(config["port"]))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    count, num_stages = config["num_microbatches"], len(config["stage_times_s"])
    own = [s for s, r in enumerate(config["stage_ranks"]) if r == rank]
    modules = {s: Stage(s, config["stage_times_s"][s]) for s in own}
    stages = [PipelineStage(modules[s], s, num_stages, torch.device("cpu")) for s in own]
    runtime = _PipelineScheduleRuntime(stages, count, loss_fn=torch.nn.functional.mse_loss)
    runtime._load_csv(config["csv"], format="compute_only")
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(2 * count, WIDTH, generator=generator)
    targets = torch.randn(2 * count, WIDTH, generator=generator)
    args = (inputs,) if 0 in own else ()
    target = {"target": targets} if num_stages - 1 in own else {}
    runtime.step(*args, **target)
    expected = reference_gradients(config, inputs, targets)
    error = max(float((modules[s].weight.grad - expected[s]).abs().max()) for s in own)
    spans = []
    for module in modules.values():
        module.awake = False
    for _ in range(config["num_timed_steps"]):
        dist.barrier()
        begin = time.perf_counter()
        runtime.step(*args, **target)
        spans.append((begin, time.perf_counter()))
    print(json.dumps({"rank": rank, "gradient_error": error, "spans": spans}), flush=True)  # noqa: T201
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
