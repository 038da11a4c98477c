"""Calibration: fitting the constants of the forms to measured kernels."""
