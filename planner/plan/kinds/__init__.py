"""What a plan states beyond the common schema: one file per kind exposes ``details(problem)``."""
