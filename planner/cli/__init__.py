"""The command line: every file here that exposes ``register(app)`` is a command, found by its presence."""
