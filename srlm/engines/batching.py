"""Requests that wait are worked on together: coroutines ask one by one, a thread answers whole batches."""

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
    """Gathers requests into batches.

    Parameters
    ----------
    work : callable
        A batch to its answers, one for each in order; runs in a thread, one batch at a time. What it raises is raised
        to all who asked in that batch.
    fits : callable
        (request, batch) -> whether it may join; the first of a batch always may.
    order : callable
        Who waits with the lowest key goes first.
    """

    def __init__(
        self, work: Callable[[list[Q]], list[A]], fits: Callable[[Q, list[Q]], bool], order: Callable[[Q], float]
    ):
        self._work, self._fits, self._order = work, fits, order
        self._queue: asyncio.Queue[_Waiting[Q, A]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, request: Q) -> A:
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
            await asyncio.sleep(0.01)  # let those that were sent together arrive together
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            waiting = [one for one in waiting if not one.answer.done()]  # who was cancelled no longer waits
            waiting.sort(key=lambda one: self._order(one.request))
            batch: list[_Waiting[Q, A]] = []
            for one in list(waiting):
                if not batch or self._fits(one.request, [other.request for other in batch]):
                    batch.append(one)
                    waiting.remove(one)
            if not batch:
                continue
            try:
                answers = await asyncio.to_thread(self._work, [one.request for one in batch])
            except BaseException as error:
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
