"""Cluster importers."""
