"""Work begun at its own moment, at a rate that does not wait for what was begun before."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

SENDERS = 16


def at_rate(rate: float, seconds: float, work: Callable[[int], float]) -> list[float]:
    """Milliseconds of each piece of work, begun at its own moment whatever the others take; counted from that moment."""
    began = time.perf_counter()

    def one(number: int) -> float:
        due = began + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        return (work(number) - due) * 1000

    with ThreadPoolExecutor(SENDERS) as senders:
        return list(senders.map(one, range(int(rate * seconds))))
