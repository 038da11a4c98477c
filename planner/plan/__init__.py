"""The plan: the versioned file that leaves the planner, how it is written, read, migrated and compared."""
