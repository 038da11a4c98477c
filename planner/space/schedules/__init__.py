"""Named pipeline schedules: one file per schedule, each exposing SCHEDULE."""
