"""Accuracy: cost models scored against measurements, and fitted to them."""
