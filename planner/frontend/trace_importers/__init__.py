"""Trace formats: one file each, exposing ``IMPORTER`` (see planner.frontend.traces)."""
