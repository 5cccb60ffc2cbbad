"""Load on an HTTP server: by wrk where it is installed, otherwise by connections of this process."""

import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Debian's package of that name. It costs the server's machine less CPU than this process does.
WRK = shutil.which("wrk")
PERCENTILES = (50, 95, 99)

# The bodies take turns. What is no 200 counts as an error; times are in microseconds.
_SCRIPT = """
local requests, n = {}, 0
init = function(args)
  for line in io.lines(args[1]) do requests[#requests + 1] = wrk.format("POST", nil, nil, line) end
end
request = function()
  n = n % #requests + 1
  return requests[n]
end
done = function(summary, latency)
  local e = summary.errors
  print(string.format('{"requests": %d, "seconds": %f, "errors": %d, "times": [%f, %f, %f]}', summary.requests,
    summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50) / 1e6,
    latency:percentile(95) / 1e6, latency:percentile(99) / 1e6))
end
"""


@dataclass(frozen=True)
class Load:
    """How many requests were answered in how many seconds, and the percentiles of their times, in seconds."""

    requests: int
    seconds: float
    percentiles: dict[int, float]


def measured(
    port: int, path: str, headers: dict[str, str], bodies: Sequence[bytes], connections: int, seconds: float
) -> Load:
    """Post bodies in turn for so long over so many connections, longer where nothing is answered by then.

    Raises `RuntimeError` unless each answer is a 200.
    """
    if WRK:
        while not (found := _by_wrk(WRK, port, path, headers, bodies, connections, seconds)).requests:
            seconds *= 2
        return found
    times: list[float] = []
    started = time.monotonic()
    requests = [request(path, headers, body) for body in bodies]

    def look(number: int, status: int, body: bytes, took: float) -> None:
        if status != 200:
            raise RuntimeError(f"{path} answers {status}: {body[:200]!r}")
        times.append(took)

    asyncio.run(ask(port, requests, connections, lambda: time.monotonic() - started > seconds, look))
    percentiles = statistics.quantiles(times, n=100)
    return Load(len(times), time.monotonic() - started, {p: percentiles[p - 1] for p in PERCENTILES})


def request(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return the bytes of a POST."""
    lines = {"Host": "localhost", "Content-Type": "application/json"} | headers | {"Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def ask(
    port: int,
    requests: Sequence[bytes],
    connections: int,
    is_over: Callable[[], bool],
    look: Callable[[int, int, bytes, float], None],
) -> None:
    """Send requests in turn over so many connections until `is_over`.

    `look` gets the number of the request in the sequence, the status, the body and the seconds of each answer. A
    connection that breaks, or cannot be made, counts as status 0.
    """
    turn = 0

    async def connection() -> None:
        nonlocal turn
        reader = writer = None
        try:
            while not is_over():
                number, turn = turn % len(requests), turn + 1
                started, head = time.perf_counter(), b""
                try:
                    if writer is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(requests[number])
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                    body, status = await reader.readexactly(length), int(head[9:12])
                except (OSError, asyncio.IncompleteReadError) as error:
                    body, status = str(error).encode(), 0
                look(number, status, body, time.perf_counter() - started)
                if writer and (not status or b"connection: close" in head):
                    writer.close()
                    writer = None
        finally:
            if writer:
                writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))


def _by_wrk(
    wrk: str,
    port: int,
    path: str,
    headers: dict[str, str],
    bodies: Sequence[bytes],
    connections: int,
    seconds: float,
) -> Load:
    with tempfile.TemporaryDirectory(prefix="wrk-") as name:
        script, lines = Path(name) / "bodies.lua", Path(name) / "bodies"
        script.write_text(_SCRIPT)
        lines.write_bytes(b"\n".join(bodies) + b"\n")
        named = [f"-H{name}: {value}" for name, value in ({"Content-Type": "application/json"} | headers).items()]
        options = ["-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--timeout=30s", f"-s{script}", *named]
        command = [wrk, *options, f"http://127.0.0.1:{port}{path}", "--", str(lines)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if found["errors"]:
        raise RuntimeError(f"{path}: {found['errors']} of {found['requests']} requests failed")
    return Load(found["requests"], found["seconds"], dict(zip(PERCENTILES, found["times"], strict=True)))
