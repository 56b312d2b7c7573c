"""What nobody asks for any more is forgotten, whatever one chore does."""

import threading

from services.housekeeping import keep_house


def test_a_chore_that_fails_keeps_nothing_from_the_others_and_is_tried_again() -> None:
    stop, done = threading.Event(), []

    def fails() -> None:
        done.append("tried")
        raise OSError("a full disk")

    def ends() -> None:
        done.append("done")
        if done.count("done") == 3:
            stop.set()

    keep_house([fails, ends], stop, every=0.001)
    assert done == ["tried", "done"] * 3


def test_nothing_is_done_any_more_once_it_is_told_to_stop() -> None:
    stop = threading.Event()
    stop.set()
    keep_house([lambda: 1 / 0], stop, every=60)
