"""The settings file: complete, well-formed, and nobody else's to read."""

import os
import re
import stat
from collections.abc import Iterable, Iterator

from pipeline.base.errors import PipelineError
from pipeline.base.settings import Settings, load_settings
from pipeline.operations.doctor.check import Check, Subject
from settings_file import file_values, settings_file

SETTINGS = Subject("Settings")

# In a line that is no comment: PASSWORD=x, or a URL with a user and a password.
_PASSWORD = re.compile(r"(?im)^[^#\n]*(?:password\s*=\s*['\"]?[^'\"\s]|://[^/@\s]*:[^@\s]+@)")


def read_settings() -> tuple[list[Check], Settings | None]:
    """Return the checks of the settings, and the settings where they are good."""
    try:
        settings = load_settings()
    except PipelineError as error:
        return [SETTINGS.fails("values", str(error), "see .env.example, which explains every variable")], None
    return [SETTINGS.ok("values", f"complete: {origins(Settings.model_fields)}"), *_privacy()], settings


def origins(names: Iterable[str]) -> str:
    """Return where each of the variables `names` has its value from, as far as it has one."""
    wanted = {name.upper() for name in names}
    environment = wanted & {name.upper() for name in os.environ}
    file = wanted & {name.upper() for name in file_values()} - environment
    places = {"the environment": environment, str(settings_file()): file}
    found = [f"{', '.join(sorted(variables))} from {place}" for place, variables in places.items() if variables]
    return "; ".join(found) or "nothing is set"


def _privacy() -> Iterator[Check]:
    path = settings_file()
    if not path.is_file():  # all values come from the environment
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        yield SETTINGS.warning("file", f"{path} cannot be read: {error.strerror}", f"chmod u+r {path}")
        return
    if mode & 0o077 and _PASSWORD.search(text):
        yield SETTINGS.warning(
            "file", f"holds passwords, and others on this machine may read it (mode {mode:o})", f"chmod 600 {path}"
        )
    else:
        yield SETTINGS.ok("file", f"mode {mode:o}")
