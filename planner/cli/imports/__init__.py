"""Commands of ``newel import``: each module exposes ``register(group)``."""
