"""Serving: measured end-to-end runs, the fixed configuration each of them is, and its prediction."""
