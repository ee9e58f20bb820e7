"""Processes beside one that has a row of things to do: once it has been at it for a while, they take the last ones."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from elmur.children import follow_parent

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
AFTER = 5.0  # seconds of work before others join, about what a process needs to start


class NotHandedOver(Exception):
    """What another process would need cannot be pickled here, or not loaded there."""


class Helpers(Generic[Item, Result]):
    """Up to `number` processes that do the last of the items in `left` while their owner does the first.

    do: the work, in whichever process; pickled. The owner calls `offer` now and then, which starts them after AFTER
    seconds and gives them items, and `collect` once nothing is left.
    """

    def __init__(self, number: int, left: deque[Item], do: Callable[[Item], Result]) -> None:
        self.number, self._left, self._do = number, left, do
        self._taken: dict[Item, Future[Result]] = {}
        self._since = time.monotonic()
        self._pool: ProcessPoolExecutor | None = None
        self._children: set[BaseProcess] = set()

    def __enter__(self) -> Helpers[Item, Result]:
        return self

    def __exit__(self, *error: object) -> None:
        """End them, whatever they do."""
        for process in self._children:
            process.terminate()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def offer(self) -> None:
        """Let those that have nothing to do take what is left, from its end."""
        if not self.number or not self._left or time.monotonic() - self._since < AFTER:
            return
        free = self.number - sum(not future.done() for future in self._taken.values())
        for _ in range(min(free, len(self._left))):
            try:
                future = self._submit(self._left[-1])
            except NotHandedOver as error:
                self._give_up(error)
                return
            self._taken[self._left.pop()] = future

    def collect(self, pause: Callable[[], object]) -> dict[Item, Result]:
        """What they were given and its results, once all are there. pause: called while waiting.

        What a process had that the system has ended is left again, and nobody helps any longer. Errors are raised.
        """
        while not all(future.done() for future in self._taken.values()):
            pause()
            wait(self._taken.values(), timeout=0.2)
        taken, self._taken, results = self._taken, {}, {}
        for item, future in taken.items():
            try:
                results[item] = future.result()
            except (BrokenProcessPool, NotHandedOver) as error:
                self._left.append(item)
                self._give_up(error)
        return results

    def _give_up(self, error: Exception) -> None:
        ended = "it was ended by the system, mostly for want of memory"
        log.warning("no second process helps: %s", ended if isinstance(error, BrokenProcessPool) else error)
        self.number = 0

    def _submit(self, item: Item) -> Future[Result]:
        # Pickled here: the pool would move tensors into shared memory, of which a container may have little.
        try:
            work = pickle.dumps((self._do, item))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise NotHandedOver(str(error)) from error
        if self._pool is None:
            log.info("from here on %d processes play side by side", self.number + 1)
            before = set(multiprocessing.active_children())
            # spawn: a fork would copy the locks of whatever threads there are
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.number, mp_context=spawn, initializer=follow_parent)
            future = self._pool.submit(_done, work)
            self._children = set(multiprocessing.active_children()) - before
            return future
        return self._pool.submit(_done, work)


def _done(work: bytes) -> Any:
    """In a helping process: its parent's own bytes."""
    try:
        do, item = pickle.loads(work)
    except Exception as error:
        raise NotHandedOver(str(error)) from None
    return do(item)
