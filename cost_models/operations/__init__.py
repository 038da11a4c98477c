"""Long runs: failures, checkpoints, spares, stragglers, moving state between plans, time and money."""
