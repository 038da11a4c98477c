"""Network clients of the runtime; nothing else in the planner opens a connection."""
