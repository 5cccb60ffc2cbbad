"""The settings file: complete, well-formed, and nobody else's to read."""

import re
import stat
from collections.abc import Iterator

from pipeline.base.errors import PipelineError
from pipeline.base.settings import Settings, load_settings, settings_file
from pipeline.operations.doctor.check import Check, Subject

SETTINGS = Subject("Settings")

# In a line that is no comment: PASSWORD=x, or a URL with a user and a password.
_PASSWORD = re.compile(r"(?im)^[^#\n]*(?:password\s*=\s*['\"]?[^'\"\s]|://[^/@\s]*:[^@\s]+@)")


def read_settings() -> tuple[list[Check], Settings | None]:
    """Return the checks of the settings, and the settings where they are good."""
    try:
        settings = load_settings()
    except PipelineError as error:
        return [SETTINGS.fails("values", str(error), "see .env.example, which explains every variable")], None
    place = settings_file()
    text = f"{place} and the environment" if place.exists() else f"the environment (there is no {place})"
    return [SETTINGS.ok("values", f"complete, from {text}"), *_privacy()], settings


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
