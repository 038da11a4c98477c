"""Lets ``python -m planner.cli`` stand in for ``newel``."""

from planner.cli.main import run

if __name__ == "__main__":
    run()
