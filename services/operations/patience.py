"""Asking what may not answer: a database, a broker, an identity provider. Whoever asks goes on after a bounded time."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NoAnswer(Exception):
    """What was asked has not answered yet. `seconds` is how long was waited this time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"no answer within {seconds:g} s")


class _Question(Generic[T]):
    def __init__(self) -> None:
        self.answered = threading.Event()
        self.answer: T | None = None
        self.failure: Exception | None = None


class Patience(Generic[T]):
    """Asks one question in a thread of its own, at most once at a time however many want to know.

    A thread that hangs cannot be ended; while it does, nobody starts another, so that a dead peer costs one thread."""

    def __init__(self, ask: Callable[[], T], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._guard = threading.Lock()
        self._open: _Question[T] | None = None

    def answer(self) -> T:
        """The answer to a question asked now, or to the one that is still open. Raises NoAnswer, or what asking raised."""
        with self._guard:
            question = self._open
            if question is None:
                question = self._open = _Question()
                threading.Thread(target=self._run, args=(question,), name="patience", daemon=True).start()
        if not question.answered.wait(self._seconds):
            raise NoAnswer(self._seconds)
        if question.failure is not None:
            raise question.failure
        return question.answer  # type: ignore[return-value]  # it is there when there is no failure

    def _run(self, question: _Question[T]) -> None:
        try:
            question.answer = self._ask()
        except Exception as failure:  # noqa: BLE001 - raised again in the thread that asked
            question.failure = failure
        with self._guard:
            self._open = None
        question.answered.set()
