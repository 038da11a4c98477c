"""An engine's profile given as a file on the command line."""

from __future__ import annotations

import os
from pathlib import Path

from planner.cli.terminal import say


def plan_with(file: Path) -> None:
    """Let every later look-up of the file's engine find it, in this process and its children.

    Raises
    ------
    InputError
        If the file is no profile of an engine.
    """
    from hardware_profiles.loader import ENVIRONMENT_VARIABLE, validate_profile
    from hardware_profiles.profile_file import read_profile_file
    from hardware_profiles.schema import SoftwareProfile
    from planner.errors import InputError
    from planner.frontend.profile_lookup import profile_errors

    if file.suffix not in (".yaml", ".yml"):
        raise InputError("an engine's profile is a YAML file", key="--software-profile", value=str(file))
    with profile_errors(file=str(file)):
        profile = validate_profile(SoftwareProfile, read_profile_file(file))
    before = os.environ.get(ENVIRONMENT_VARIABLE, "")
    parts = (str(file.resolve()), *((before,) if before else ()))
    os.environ[ENVIRONMENT_VARIABLE] = os.pathsep.join(parts)
    say(f"planning with {profile.name} for {profile.engine}; verify with {ENVIRONMENT_VARIABLE}={file}")
