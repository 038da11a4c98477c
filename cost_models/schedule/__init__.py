"""Closed forms of pipeline schedules: idle time, peak activation memory and lower bounds."""
