"""Ctrl-C while files are written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from matar_tf.run.interrupts import Interrupts


@pytest.fixture(autouse=True)
def usual_handler() -> Iterator[None]:
    """Tests that were started in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_first_waits_and_the_second_does_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Interrupts() as interrupts:
        assert not interrupts.came
        press()
        assert interrupts.came
        assert interrupts.may_finish
        assert "A second Ctrl-C stops at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            press()
        assert not interrupts.may_finish
    assert capfd.readouterr().err == ""
    with pytest.raises(KeyboardInterrupt):
        press()


def test_where_it_passes_the_first_does_not_wait_either() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.passing():
            press()
        assert interrupts.may_finish
    with Interrupts() as interrupts:
        with interrupts.passing():
            pass
        press()
        assert interrupts.may_finish


def test_a_handler_of_somebody_else_stays() -> None:
    seen: list[int] = []

    def handle(number: int, frame: object) -> None:
        seen.append(number)

    signal.signal(signal.SIGINT, handle)
    with Interrupts() as interrupts:
        press()
    assert seen == [signal.SIGINT]
    assert not interrupts.came
    assert signal.getsignal(signal.SIGINT) is handle


def test_in_another_thread_nothing_happens() -> None:
    def enter() -> None:
        with Interrupts():
            handlers.append(signal.getsignal(signal.SIGINT))

    handlers: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
