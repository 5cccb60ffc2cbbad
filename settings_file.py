"""The settings file: values for the variables that the environment does not have.

`.env` beside this file, or the file that `FEATURE_STORE_ENV_FILE` names. Feast's own commands know nothing of it:

    .venv/bin/python settings_file.py .venv/bin/feast apply

runs a command with the file's values in its environment. The environment wins over the file, here as everywhere.
"""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from dotenv import dotenv_values

REPOSITORY = Path(__file__).resolve().parent
_SINGLE_QUOTED = re.compile(r"^([ \t]*(?:export[ \t]+)?[^\s=#'\"]+[ \t]*=[ \t]*)'([^']*)'", re.MULTILINE)


def settings_file() -> Path:
    """Return the settings file; it may be missing."""
    return Path(os.environ.get("FEATURE_STORE_ENV_FILE") or REPOSITORY / ".env")


def file_values() -> dict[str, str]:
    """Return the values of the settings file, none where it is missing.

    What is in single quotes is taken as it stands, as by a shell and by systemd; dotenv alone would take `${NAME}`,
    `\\\\` and `\\'` in it otherwise. Raises `click.ClickException` where the file cannot be read.
    """
    path = settings_file()
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = "is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"cannot be read: {error.strerror}"
        raise click.ClickException(f"Settings: {path} {reason}. See .env.example.") from None
    quoted = []

    def hidden(match: re.Match[str]) -> str:
        quoted.append(match[2])
        return f"{match[1]}'\0{len(quoted) - 1}\0'"

    values = dotenv_values(stream=io.StringIO(_SINGLE_QUOTED.sub(hidden, text)))
    return {
        name: re.sub("\0(\\d+)\0", lambda match: quoted[int(match[1])], value)
        for name, value in values.items()
        if value is not None
    }


@contextmanager
def in_environment() -> Iterator[None]:
    """Let the environment have the file's values, too, for the length of the block."""
    added = {name: value for name, value in file_values().items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


if __name__ == "__main__":
    os.environ.update(file_values() | os.environ)
    os.execvp(sys.argv[1], sys.argv[1:])
