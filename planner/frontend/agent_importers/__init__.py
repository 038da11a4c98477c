"""Readers of foreign agent graphs and traces: one file per format, found by its name."""
