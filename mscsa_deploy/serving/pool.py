"""Worker threads with a session each, and the bounded queue in front of them.

The inference libraries release Python's lock while they compute, so threads keep all cores busy. A request
waits in the queue, is parsed, decoded, computed and encoded in one worker, which sends the answer where it
has a `Waiter`; otherwise it is sent on the event loop.
Where the artefact has a free batch axis, a worker that finds requests waiting gathers them, up to the largest batch or
the delay.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mscsa_deploy.errors import DeployError
from mscsa_deploy.serving.refusal import Refusal, refusal_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.core.tensors import Array
    from mscsa_deploy.serving.calls import Call, Reply
    from mscsa_deploy.serving.model import Prepared, ServedModel
    from mscsa_deploy.serving.settings import Work

LOG = logging.getLogger(__name__)
_SMOOTHING = 0.1
_CAUTION = 1.5
"""A request that could only be answered in time if nothing took longer than usual is refused at once."""


class Observer(Protocol):
    """Told by workers what they did."""

    def batch(self, size: int, seconds: float) -> None:
        """The network ran once for `size` pictures."""


class Waiter(Protocol):
    """Who takes an answer from the worker itself."""

    def deliver(self, reply: Reply) -> bool:
        """Send the answer, from any thread; False where it has to go to the event loop."""

    def settled(self, future: asyncio.Future[Reply]) -> None:
        """There is a result that was not delivered; called on the event loop."""


@dataclass(slots=True)
class Job:
    """A request in the queue; times are seconds on the monotonic clock."""

    call: Call
    future: asyncio.Future[Reply]
    loop: asyncio.AbstractEventLoop
    arrived: float
    deadline: float
    waiter: Waiter | None = None
    behind: bool = False
    """Whether all workers were busy as it came."""
    last_of: int | None = None
    """The worker that is free once this is answered."""
    started: float = 0.0
    prepared_at: float = 0.0

    def settle(self, result: Reply | BaseException) -> None:
        """Hand the result to the event loop; from any thread."""
        self.loop.call_soon_threadsafe(_settle, self.future, result)


class Pool:
    """The sessions of one model version.

    Args:
        models: One per worker thread.
        work: Queue, deadline and batch settings.
        observer: Told about each run of the network.
    """

    def __init__(self, models: Sequence[ServedModel], work: Work, observer: Observer) -> None:
        self.model = models[0]
        self._models = models
        self._work = work
        self._observer = observer
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closing = False
        self._seconds = 0.0
        self._busy_since: dict[int, float] = {}
        self._limit = work.queue * len(models)
        self._batch = models[0].max_batch if models[0].fixed_batch != 1 else 1
        self._threads = [
            threading.Thread(target=self._work_off, args=(index, model), name=f"worker-{index}", daemon=True)
            for index, model in enumerate(models)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def workers(self) -> int:
        """Number of sessions."""
        return len(self._models)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.qsize()

    @property
    def stalled(self) -> bool:
        """Whether every worker has been computing one request for implausibly long."""
        since = list(self._busy_since.values())
        return len(since) == len(self._models) and time.monotonic() - max(since) > self._work.stalled_seconds

    def admit(self, deadline: float) -> None:
        """Raise `Refusal` if a request would find the queue full, or not be answered by `deadline`."""
        waiting = self._queue.qsize()
        if not waiting and len(self._busy_since) < len(self._models):
            return
        expected = (waiting + len(self._busy_since)) * self._seconds / len(self._models)
        full = waiting >= self._limit
        if full or time.monotonic() + _CAUTION * (expected + self._seconds) > deadline:
            why = f"{waiting} requests are waiting" if full else "the deadline would pass in the queue"
            pause = max(1, math.ceil(expected))
            raise Refusal(503, f"the server is busy: {why}; try again later", retry_after=pause, reason="overload")

    def submit(self, call: Call, deadline: float, future: asyncio.Future[Reply], waiter: Waiter | None = None) -> None:
        """Queue a request; to be called on the event loop.

        Args:
            call: The request.
            deadline: On the monotonic clock.
            future: Gets the answer, or what went wrong.
            waiter: Asked first to take the answer.

        Raises:
            Refusal: There is no room, see `admit`.
        """
        self.admit(deadline)
        assert not self._closing, "requests go to the pool that is in place"
        if waiter is not None:
            future.add_done_callback(waiter.settled)
        # Last, so that the event loop soon gives the worker Python's lock.
        behind = len(self._busy_since) == len(self._models)
        self._queue.put(Job(call, future, future.get_loop(), time.monotonic(), deadline, waiter, behind))

    def close(self, seconds: float = threading.TIMEOUT_MAX) -> bool:
        """Finish what was accepted, then release the sessions; blocks, for `seconds` at most.

        Returns:
            False where a session was still computing then; it is left to the end of the process.
        """
        self._closing = True
        for _ in self._threads:
            self._queue.put(None)
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX))
        if any(thread.is_alive() for thread in self._threads):
            return False
        for model in self._models:
            model.close()
        return True

    def _work_off(self, index: int, model: ServedModel) -> None:
        while jobs := self._take():
            begin = self._busy_since[index] = time.monotonic()
            try:
                self._serve(index, model, jobs)
            except Exception as error:
                # The edge of the thread: a bug must cost one answer, not a worker.
                LOG.exception("a worker failed")
                for job in jobs:
                    job.settle(error)
            finally:
                self._busy_since.pop(index, None)
                spent = (time.monotonic() - begin) / len(jobs)
                self._seconds += _SMOOTHING * (spent - self._seconds) if self._seconds else spent
                # A worker that waits holds no request's memory.
                jobs.clear()

    def _take(self) -> list[Job]:
        """The next requests, at most a batch; none when the pool is closing.

        Only a request that came while all workers were busy gives the others of a batch their time to come.
        """
        job = self._queue.get()
        delay = self._work.batch_delay_ms / 1e3 if job is not None and job.behind else 0.0
        jobs: list[Job] = []
        until = time.monotonic() + delay
        while job is not None:
            jobs.append(job)
            if len(jobs) == self._batch:
                return jobs
            try:
                job = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return jobs
        if jobs:
            # The sign to close is for the time after these.
            self._queue.put(None)
        return jobs

    def _serve(self, index: int, model: ServedModel, jobs: Sequence[Job]) -> None:
        ready: list[tuple[Job, Prepared]] = []
        for job in jobs:
            prepared = self._prepare(model, job)
            if prepared is not None:
                ready.append((job, prepared))
        # Stable: those for the same session stay in the order they came.
        ready.sort(key=lambda each: each[1].runner is not model.runner)
        while ready:
            count, runner = 0, ready[0][1].runner
            group: list[tuple[Job, Prepared]] = []
            while ready and ready[0][1].runner is runner:
                if group and count + len(ready[0][1].tensor) > model.max_batch:
                    break
                group.append(ready.pop(0))
                count += len(group[-1][1].tensor)
            if not ready:
                group[-1][0].last_of = index
            self._compute(model, group, count)

    def _prepare(self, model: ServedModel, job: Job) -> Prepared | None:
        job.started = time.monotonic()
        if job.future.cancelled():
            return None
        try:
            if job.started > job.deadline:
                raise too_late()
            prepared = job.call.prepare(model)
            limit = job.call.timeout_us / 1e6
            job.prepared_at = time.monotonic()
            if limit and job.prepared_at > job.arrived + limit:
                raise too_late()
        except (Refusal, DeployError) as error:
            job.settle(_refusal(error))
            return None
        return prepared

    def _compute(self, model: ServedModel, group: Sequence[tuple[Job, Prepared]], count: int) -> None:
        begin = time.monotonic()
        tensors = [prepared.tensor for _, prepared in group]
        try:
            raw = model.compute(tensors[0] if len(tensors) == 1 else np.concatenate(tensors), group[0][1].runner)
        except DeployError as error:
            for job, _ in group:
                job.settle(_refusal(error))
            return
        done = time.monotonic()
        self._observer.batch(count, done - begin)
        place = 0
        for job, prepared in group:
            size = len(prepared.tensor)
            self._reply(model, job, prepared, raw[place : place + size], network_s=done - begin)
            place += size

    def _reply(self, model: ServedModel, job: Job, prepared: Prepared, raw: Array, *, network_s: float) -> None:
        begin = time.monotonic()
        try:
            reply = job.call.reply(model, prepared, raw)
        except (Refusal, DeployError) as error:
            job.settle(_refusal(error))
            return
        reply.parts_ms.update(
            queue=1e3 * (job.started - job.arrived),
            prepare=1e3 * (job.prepared_at - job.started),
            network=1e3 * network_s,
            answer=1e3 * (time.monotonic() - begin),
        )
        if job.last_of is not None:
            # The client may ask again before this thread gets any further.
            self._busy_since.pop(job.last_of, None)
        if job.waiter is None or not job.waiter.deliver(reply):
            job.settle(reply)


def too_late() -> Refusal:
    """The answer when the deadline has passed."""
    return Refusal(504, "the deadline passed before the answer was there", reason="deadline")


def _refusal(error: Refusal | DeployError) -> Refusal:
    return error if isinstance(error, Refusal) else refusal_of(error)


def _settle(future: asyncio.Future[Reply], result: Reply | BaseException) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
