"""A hang is reported once, with the step and every stack; slow is not hanging."""

from __future__ import annotations

import threading

from jaxcog.training.watchdog import Watchdog


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_hang_is_reported_once_until_the_next_beat(tmp_path):
    clock, hangs = Clock(), []
    with (tmp_path / "err").open("w+") as stream:
        dog = Watchdog(10.0, lambda *args: hangs.append(args), clock=clock, stream=stream)
        dog.beat(41)
        clock.now = 9.0
        assert not dog.check()
        dog.beat(42)
        clock.now = 18.0
        assert not dog.check()
        clock.now = 19.5
        assert dog.check()
        clock.now = 100.0
        assert not dog.check()
        dog.beat(43)
        clock.now = 111.0
        assert dog.check()
        stream.seek(0)
        text = stream.read()
    assert hangs == [(42, 10.5), (43, 11.0)]
    assert "after step 42" in text
    assert "test_a_hang_is_reported_once" in text


def test_before_the_first_step(tmp_path):
    clock, hangs = Clock(), []
    with (tmp_path / "err").open("w+") as stream:
        dog = Watchdog(10.0, lambda *args: hangs.append(args), clock=clock, stream=stream)
        clock.now = 10.0
        assert dog.check()
        stream.seek(0)
        assert "before the first step" in stream.read()
    assert hangs == [(None, 10.0)]


def test_the_thread_sees_a_main_thread_that_waits(tmp_path):
    barked = threading.Event()
    with (tmp_path / "err").open("w+") as stream:
        with Watchdog(0.05, lambda *args: barked.set(), stream=stream):
            assert barked.wait(30)
        stream.seek(0)
        assert "test_the_thread_sees_a_main_thread_that_waits" in stream.read()
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())
