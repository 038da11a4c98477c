"""Searches by kind of problem: one file per kind exposes ``search(problem, diagnostics) -> SearchResult``."""
