"""The two iterators that do what a `Wait` says: they differ in how they sleep, and how many ask at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Generic, Self, TypeAlias, TypeVar

from .errors import MidjourneyError
from .polling import Look, Outcome, Wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import anyio

    from .task import Task

_Item = TypeVar("_Item")
_Pick: TypeAlias = "Callable[[tuple[str, Outcome]], _Item]"
_Ask: TypeAlias = "Callable[[str, Callable[[], float]], Task]"
_AsyncAsk: TypeAlias = "Callable[[str, Callable[[], float]], Awaitable[Task]]"


class Outcomes(Generic[_Item]):
    """What `as_completed` and `watch` give: an iterator that may be left, or closed, at any time."""

    def __init__(self, ask: _Ask, wait: Wait, pick: _Pick[_Item]) -> None:
        self._ask, self._wait, self._pick = ask, wait, pick

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Item:
        wait = self._wait
        while not wait.ready and (step := wait.step()) is not None:
            if isinstance(step, Look):
                self._look(step)
            else:
                time.sleep(step)
        if (outcome := wait.outcome()) is None:
            raise StopIteration
        return self._pick(outcome)

    def close(self) -> None:
        """Ends the waiting: no more items come."""
        self._wait.close()

    def _look(self, look: Look) -> None:
        answer: Outcome | None = None
        try:
            answer = self._ask(look.task_id, self._wait.allowance)
        except MidjourneyError as error:
            answer = error
        finally:
            self._wait.answer(look, answer)


class AsyncOutcomes(Generic[_Item]):
    """`Outcomes` for `async for`. Between two items no task runs, and no cancel scope is open."""

    def __init__(self, ask: _AsyncAsk, wait: Wait, pick: _Pick[_Item]) -> None:
        self._ask, self._wait, self._pick = ask, wait, pick
        self._answered: anyio.Event | None = None
        self._busy = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Item:
        import anyio  # noqa: PLC0415  (only when it is needed, as httpx does)

        wait = self._wait
        if self._busy:
            raise RuntimeError("The next item is being awaited already.")
        if not wait.ready:
            self._busy = True
            try:
                async with anyio.create_task_group() as looks:
                    while not wait.ready and (step := wait.step()) is not None:
                        if isinstance(step, Look):
                            looks.start_soon(self._look, step)
                        else:
                            self._answered = anyio.Event()
                            with anyio.move_on_after(step):
                                await self._answered.wait()
                    # Those in flight may still bring theirs, for a moment; else they are asked for again.
                    looks.cancel_scope.deadline = anyio.current_time() + wait.grace()
            finally:
                self._busy = False
        if (outcome := wait.outcome()) is None:
            raise StopAsyncIteration
        return self._pick(outcome)

    async def aclose(self) -> None:
        """Ends the waiting: no more items come."""
        self._wait.close()

    async def _look(self, look: Look) -> None:
        answer: Outcome | None = None
        try:
            answer = await self._ask(look.task_id, self._wait.allowance)
        except MidjourneyError as error:
            answer = error
        finally:
            self._wait.answer(look, answer)
            if self._answered:
                self._answered.set()


def pair(outcome: tuple[str, Outcome]) -> tuple[str, Outcome]:
    """An item of `as_completed`."""
    return outcome


def task_of(outcome: tuple[str, Outcome]) -> Task:
    """An item of `watch`, and what `wait` returns. Raises if there is an error instead."""
    if isinstance(outcome[1], MidjourneyError):
        raise outcome[1]
    return outcome[1]
