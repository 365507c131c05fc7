"""Dynamic batching: coroutines send single requests, and a thread processes them in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass
class _Waiting(Generic[Q, A]):
    request: Q
    answer: asyncio.Future[A]


class Batches(Generic[Q, A]):
    """Collect requests into batches and process them.

    Parameters
    ----------
    work : callable
        Batch -> its answers, in order. It runs in a thread, one batch at a time. If it raises an error, each request of
        the batch gets it.
    fits : callable
        (request, batch) -> whether the request may be added; the first request of a batch is always added.
    order : callable
        Request -> sort key; the lowest key is processed first.
    """

    def __init__(
        self, work: Callable[[list[Q]], list[A]], fits: Callable[[Q, list[Q]], bool], order: Callable[[Q], float]
    ):
        self._work, self._fits, self._order = work, fits, order
        self._queue: asyncio.Queue[_Waiting[Q, A]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, request: Q) -> A:
        """Return the answer to a request, after its batch has been processed."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        await self._queue.put(_Waiting(request, answer))
        return await answer

    async def _serve(self) -> None:
        waiting: list[_Waiting[Q, A]] = []
        while True:
            if not waiting:
                waiting.append(await self._queue.get())
            await asyncio.sleep(0.01)  # so that requests that are sent together are in one batch
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            waiting = [item for item in waiting if not item.answer.done()]  # without cancelled requests
            waiting.sort(key=lambda item: self._order(item.request))
            batch: list[_Waiting[Q, A]] = []
            for item in list(waiting):
                if not batch or self._fits(item.request, [other.request for other in batch]):
                    batch.append(item)
                    waiting.remove(item)
            if not batch:
                continue
            try:
                answers = await asyncio.to_thread(self._work, [item.request for item in batch])
            except BaseException as error:
                for item in batch:
                    if not item.answer.done():
                        item.answer.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            for item, answer in zip(batch, answers, strict=True):
                if not item.answer.done():
                    item.answer.set_result(answer)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
