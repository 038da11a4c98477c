"""The training part of the search space: layers under a strategy become work and bytes.

How to price training plans::

    software = load_training_software("megatron-lm")                        # training/software.py
    costs = training_cost_model(group, software)
    evaluator = TrainingEvaluator(model, group, costs, software, workload, micro_batches)
    plans = single(strategy)            # one TrainingStrategy, or
    plans = sharded(space, rows(space, concatenate(list(points(space)))))
    result = evaluator.evaluate(plans, "bf16")

The second form gives all plans of a `Space` (training/grid.py). `micro_batches` lists every micro-batch size
that any plan uses (layer tables are vectors over it).
`result.time` has the terms of the step time, each an array over plans, `result.peak_bytes` the fullest
stage (`allocated_bytes` what the framework reports of it), `result.sigma_log` and `result.interval_s(0.9)`
the spread of the step time, `result.memory[i]` the terms of every stage (kept for at most 64 plans at a
time). A plan whose layers cannot be split so has infinite time and memory.
"""
