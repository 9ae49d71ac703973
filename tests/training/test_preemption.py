"""Signals become one question, one exit status, and leave no handler behind."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from jaxcog.training.preemption import StopSignal


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_after_the_step_and_tells_why(number, status):
    before = signal.getsignal(number)
    said = []
    with StopSignal(said.append) as stop:
        assert not stop.agreed(1)
        assert stop.exit_status == 0
        os.kill(os.getpid(), number)
        assert stop.agreed(2)
        assert stop.agreed(3)
        assert stop.exit_status == status
    assert signal.getsignal(number) is before
    assert len(said) == 1
    assert signal.Signals(number).name in said[0]


def test_a_second_interrupt_is_immediate():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.agreed(1)


def test_termination_outranks_an_interrupt():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.agreed(1)
        assert stop.exit_status == 143


def test_in_another_thread_only_requests_count():
    answers = []

    def run():
        with StopSignal() as stop:
            answers.append(stop.agreed(1))
            stop.request()
            answers.append(stop.agreed(2))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert answers == [False, True]
