"""Readers of public scheduling instances: one file per format, found by its name."""
