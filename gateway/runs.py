"""Materializations that the gateway starts, each in a process of its own that outlives the gateway."""

import asyncio
import os
import sys
import uuid
from datetime import UTC, datetime
from http import HTTPStatus

from feast import FeatureStore

from gateway.contract import RunOutcome, ViewOutcome
from gateway.errors import ApiError, unavailable
from gateway.reader import Reader
from pipeline import REPOSITORY
from pipeline.operations.status import busy_run
from pipeline.registry.ledger import RUNNING, Ledger, PastRun

# How long a run takes, at most, from its start to the lock of its project.
_START_SECONDS = 60
# How long it takes, at most, from its last word in the ledger to the end of its lock.
_ENDING_SECONDS, _ENDING_TRIES = 2.0, 10
_BUSY = 75
_OWN_VARIABLES = ("JWT_SECRET", "PROMETHEUS_MULTIPROC_DIR", "GATEWAY_RUNS_REGISTRY_URL")


class Runs:
    """Starts runs and tells what became of them, by the lock and the ledger that all runs share."""

    def __init__(self, store: FeatureStore, reader: Reader, registry_url: str = "") -> None:
        self._store = store
        self._reader = reader
        # The gateway itself only reads the registry, maybe by a role that may do no more; runs write.
        self._registry = {"FEAST_REGISTRY_URL": registry_url} if registry_url else {}
        self._watching: set[asyncio.Task[None]] = set()

    async def start(self, *, force: bool) -> str:
        """Start a run and return its id; raises `ApiError` 409, with its id if known, while another one is busy."""
        run = str(uuid.uuid4())
        other = await self._reader.claim(run, _START_SECONDS)
        if other and await self._is_over(other):  # and the gateway that started it is gone, or about to say so
            other = await self._reader.claim(run, _START_SECONDS, instead_of=other)
        if other:
            raise _busy(other)
        is_busy, holder = await self._busy_run()
        if is_busy:
            await self._reader.release()
            raise _busy(str(holder) if holder else None)
        command = [sys.executable, str(REPOSITORY / "materialize_features.py"), "run", "--run-id", run]
        command += ["--log-format", "json", *(["--force"] if force else [])]
        environment = {name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
        try:
            process = await asyncio.create_subprocess_exec(
                *command, env=environment | self._registry, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
            )
        except OSError:
            await self._reader.release()
            raise unavailable("the run cannot be started") from None
        task = asyncio.create_task(self._watch(process, run))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        return run

    async def _busy_run(self) -> tuple[bool, uuid.UUID | None]:
        """Return what `busy_run` does, after a while where nobody in the ledger has the lock: the last run lets it go.

        Who has read there that it is over may ask for the next one before that.
        """
        for _ in range(_ENDING_TRIES):
            found = await asyncio.to_thread(busy_run, self._store)
            if found != (True, None):
                break
            await asyncio.sleep(_ENDING_SECONDS / _ENDING_TRIES)
        return found

    async def outcome(self, run: uuid.UUID) -> RunOutcome:
        """Return what became of a run; raises `ApiError` 404 where nobody knows it."""
        if found := await asyncio.to_thread(Ledger(self._store).find, run):
            return _told(found)
        if text := await self._reader.noted(str(run)):
            return RunOutcome(runId=str(run), status="failed", error=text)
        if await self._reader.starting() == str(run):
            return RunOutcome(runId=str(run), status="starting")
        raise ApiError(HTTPStatus.NOT_FOUND, "there is no such run")

    async def _is_over(self, run: str) -> bool:
        found = await asyncio.to_thread(Ledger(self._store).find, uuid.UUID(run))
        return found is not None and found.outcome != RUNNING

    async def _watch(self, process: asyncio.subprocess.Process, run: str) -> None:
        code = await process.wait()
        if code and not await asyncio.to_thread(Ledger(self._store).find, uuid.UUID(run)):
            busy = "another run was faster" if code == _BUSY else "it could not start: the log of the gateway says why"
            await self._reader.note(run, busy)
        if await self._reader.starting() == run:
            await self._reader.release()


def _busy(run: str | None) -> ApiError:
    return ApiError(HTTPStatus.CONFLICT, "another run is busy", runId=run)


def _told(run: PastRun) -> RunOutcome:
    views = [
        ViewOutcome(
            view=name,
            outcome=view["outcome"],
            rows=view["rows"],
            rejected=view["rejected"],
            error=view["error"],
        )
        for name, view in run.views.items()
    ]
    return RunOutcome(
        runId=str(run.run_id),
        status=run.outcome,
        asOf=_text(run.as_of),
        startedAt=_text(run.started_at),
        finishedAt=_text(run.finished_at),
        error=run.error,
        views=views,
    )


def _text(instant: datetime | None) -> str | None:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z") if instant else None
