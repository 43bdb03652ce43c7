"""What keeps failing is left alone, and then asked by one at a time."""

import time
from contextlib import ExitStack

import pytest

from pushapp.circuit_breaker import Bulkhead, CallRejectedError, CircuitBreaker


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        with breaker.call():
            breaker.record_failure()


def test_it_lets_everybody_ask_until_so_many_have_failed_in_a_row() -> None:
    breaker = CircuitBreaker(3, reset_timeout=60, max_reset_timeout=60)
    for _ in range(5):
        fail(breaker, 2)
        with breaker.call():
            breaker.record_success()
    fail(breaker, 3)
    with pytest.raises(CallRejectedError) as refusal, breaker.call():
        pass
    assert 59 < refusal.value.retry_after <= 60


def test_then_one_at_a_time_may_try_and_its_success_is_everybodys() -> None:
    breaker = CircuitBreaker(1)
    fail(breaker, 1)
    with breaker.call():
        with pytest.raises(CallRejectedError), breaker.call():
            pass
        breaker.record_success()
        with breaker.call(), breaker.call():
            pass
    with breaker.call():
        pass


def test_a_try_that_breaks_off_lets_the_next_one_try() -> None:
    breaker = CircuitBreaker(1)
    fail(breaker, 1)
    with pytest.raises(RuntimeError), breaker.call():
        raise RuntimeError
    with breaker.call():
        pass


def test_each_failed_try_doubles_the_pause_up_to_its_limit() -> None:
    breaker = CircuitBreaker(1, reset_timeout=0.05, max_reset_timeout=0.15)
    pauses = []
    for _ in range(3):
        fail(breaker, 1)
        with pytest.raises(CallRejectedError) as refusal, breaker.call():
            pass
        pauses.append(refusal.value.retry_after)
        time.sleep(refusal.value.retry_after)
    assert pauses == [pytest.approx(seconds, abs=0.01) for seconds in (0.05, 0.1, 0.15)]


def test_those_under_way_when_it_opens_make_the_pause_no_longer() -> None:
    breaker = CircuitBreaker(2, reset_timeout=10, max_reset_timeout=300)
    for _ in range(50):
        breaker.record_failure()
    with pytest.raises(CallRejectedError) as refusal, breaker.call():
        pass
    assert refusal.value.retry_after <= 10


def test_a_pause_that_is_asked_for_is_kept() -> None:
    breaker = CircuitBreaker(1, reset_timeout=1, max_reset_timeout=300)
    breaker.record_failure(retry_after=120)
    with pytest.raises(CallRejectedError) as refusal, breaker.call():
        pass
    assert 119 < refusal.value.retry_after <= 120


def test_nobody_joins_those_that_wait_in_silence_until_one_has_an_answer() -> None:
    breaker = Bulkhead(0.05)
    with ExitStack() as waiting:
        for _ in range(2):
            waiting.enter_context(breaker.call())
        with breaker.call():
            time.sleep(0.06)
            with pytest.raises(CallRejectedError), breaker.call():
                pass
        with breaker.call():
            pass


def test_two_that_wait_for_an_answer_are_no_silence() -> None:
    breaker = Bulkhead(0.05)
    with breaker.call(), breaker.call():
        time.sleep(0.06)
        with breaker.call():
            pass


def test_a_silence_that_is_over_is_forgotten() -> None:
    breaker = Bulkhead(0.05)
    for _ in range(2):
        with breaker.call(), breaker.call(), breaker.call(), breaker.call():
            time.sleep(0.06)
