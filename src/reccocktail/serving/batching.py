"""Requests of many users become batches: a bounded queue and one worker thread."""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from reccocktail.errors import RunError

Key = TypeVar("Key")
Job = TypeVar("Job")
Result = TypeVar("Result")


PATIENCE = 0.5  # share of a job's time that may pass before its turn: a pace is but a mean


class OverloadedError(RunError):
    """More waits than can be answered in time. `retry_after` is until when, in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many requests at once; try again in {retry_after} s.")
        self.retry_after = retry_after


class ClosedError(RunError):
    """The service is shutting down."""

    def __init__(self) -> None:
        super().__init__("The service is shutting down; try again when it is up.")


@dataclass(frozen=True, eq=False)
class _Entry(Generic[Job, Result]):
    """A job that waits."""

    job: Job
    deadline: float
    cost: float
    future: "Future[Result]"


class Batcher(Generic[Key, Job, Result]):
    """Collects jobs of the same key for a few milliseconds and runs them together.

    Keys take turns, so that a busy domain does not starve the others.
    """

    def __init__(
        self,
        run: Callable[[Key, Sequence[Job]], Sequence[Result]],
        *,
        limit: int,
        batch: int,
        linger: float,
        pace: float = 0.002,
    ) -> None:
        """Start the worker.

        Args:
            run: computes the results of jobs of one key, in their order.
            limit: jobs that may wait.
            batch: jobs that are run together.
            linger: how long the first job waits for company, seconds.
            pace: seconds that a job of cost 1 takes, until some were measured.
        """
        self._run, self._limit, self._batch, self._linger = run, limit, batch, linger
        self._queues: OrderedDict[Key, deque[_Entry[Job, Result]]] = OrderedDict()
        self._wake = threading.Condition()
        self._closed = False
        self._pace = pace  # a moving average
        self._running = 0.0  # cost of the jobs that are computed at this moment
        self.batches = self.jobs = 0
        self._worker = threading.Thread(target=self._work, name="batches", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return sum(len(queue) for queue in self._queues.copy().values())

    @property
    def alive(self) -> bool:
        """Whether jobs are still worked on."""
        return self._worker.is_alive() and not self._closed

    def retry_after(self) -> int:
        """About how long what waits now takes, whole seconds, 1 to 60."""
        with self._wake:
            return min(60, max(1, math.ceil(self._ahead * self._pace)))

    @property
    def _ahead(self) -> float:
        """Cost of what is computed and of what waits."""
        queues = self._queues.values()
        return self._running + sum(entry.cost for queue in queues for entry in queue)

    def submit(self, key: Key, job: Job, deadline: float, cost: float = 1.0) -> "Future[Result]":
        """Queue a job.

        Args:
            key: jobs with the same one may be run together.
            job: what to compute.
            deadline: `time.monotonic()` after which nobody waits for it any more.
            cost: of the job, in any unit that is the same for all.

        Returns:
            The result to come, or TimeoutError if the deadline passed before its turn, or
            ClosedError if the end came before it.

        Raises:
            OverloadedError: the queue is full, or so long that the deadline may pass.
            ClosedError: the service is shutting down.
        """
        future: Future[Result] = Future()
        patience = PATIENCE * (deadline - time.monotonic())
        with self._wake:
            if self._closed:
                raise ClosedError
            if self._refuses(patience):
                self._forget_abandoned()
                if self._refuses(patience):
                    raise OverloadedError(self.retry_after())
            self._queues.setdefault(key, deque()).append(_Entry(job, deadline, cost, future))
            self._wake.notify_all()
        return future

    def close(self, timeout: float = 10.0) -> None:
        """Take no more jobs, finish those that wait, and stop; what is left over is refused."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._worker.join(timeout)
        with self._wake:
            for queue in self._queues.values():
                for entry in queue:
                    if entry.future.set_running_or_notify_cancel():
                        entry.future.set_exception(ClosedError())
            self._queues.clear()

    def _refuses(self, patience: float) -> bool:
        # A job with nothing ahead of it is always taken; its pace corrects one that was too slow.
        return self.waiting >= self._limit or 0 < patience < self._ahead * self._pace

    def _forget_abandoned(self) -> None:
        for key, queue in list(self._queues.items()):
            kept = deque(entry for entry in queue if not entry.future.cancelled())
            if kept:
                self._queues[key] = kept
            else:
                del self._queues[key]

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._queues and not self._closed:
                    self._wake.wait()
                if not self._queues:
                    return
                key = next(iter(self._queues))
                until = time.monotonic() + self._linger
                while len(self._queues[key]) < self._batch and not self._closed:
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._wake.wait(left)
                    if key not in self._queues:  # all of them were abandoned meanwhile
                        break
                queue = self._queues.pop(key, deque())
                taken = [queue.popleft() for _ in range(min(self._batch, len(queue)))]
                if queue:
                    self._queues[key] = queue  # at the end: the others' turn
            self._answer(key, taken)

    def _answer(self, key: Key, taken: Sequence["_Entry[Job, Result]"]) -> None:
        now = time.monotonic()
        due = []
        for entry in taken:
            if not entry.future.set_running_or_notify_cancel():
                continue
            if entry.deadline < now:
                entry.future.set_exception(TimeoutError())
            else:
                due.append(entry)
        if not due:
            return
        cost = self._running = sum(entry.cost for entry in due)
        try:
            results = self._run(key, [entry.job for entry in due])
        except BaseException as error:  # the worker must outlive whatever one batch runs into
            for entry in due:
                entry.future.set_exception(error)
        else:
            for entry, result in zip(due, results, strict=True):
                entry.future.set_result(result)
        self._running = 0.0
        self.batches += 1
        self.jobs += len(due)
        self._pace += 0.3 * ((time.monotonic() - now) / cost - self._pace)
