"""Slots are shared fairly: slow and silent push services cost only their own, however many there are."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from pushapp.sending.concurrency import Push, Scheduler
from pushapp.webpush.responses import Outcome, classify_response, no_response

ACCEPTED = classify_response(201)
ACCEPTED_OVER_HTTP_2 = classify_response(201, is_multiplexed=True)


class Recipient(NamedTuple):
    """A stored subscription."""

    id: int
    endpoint: str
    keys_p256dh: str = ""
    keys_auth: str = ""
    vapid_key: str | None = None


class Batch:
    """Messages to push services, which accept after the seconds of their entry in `delays`, or never."""

    def __init__(self, delays: dict[str, float], *, is_direct: bool = False):
        self.delays, self.is_direct = delays, is_direct
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.rejected: list[float] = []
        self.refused: set[int] = set()  # ids of recipients
        self.scheduler: Scheduler | None = None  # told that outcomes are recorded

    def begin(self, push: Push) -> bool:
        return push.recipient.id not in self.refused

    async def send(self, push: Push) -> Outcome:
        name = push.push_service.origin
        self.begun.append(name)
        delay = self.delays.get(name, 0.0)
        if delay == float("inf"):
            await asyncio.Event().wait()
        await asyncio.sleep(delay)
        if delay < 0:
            return no_response("refused")
        return ACCEPTED_OVER_HTTP_2 if "http2" in name else ACCEPTED

    def end(self, push: Push, outcome: Outcome) -> None:
        self.ended.append(push.push_service.origin)
        if self.scheduler:
            self.scheduler.recorded(1)

    def reject(self, push: Push, retry_after: float) -> None:
        self.rejected.append(retry_after)

    def add(self, scheduler: Scheduler, *names: str) -> list[Push]:
        pushes = [Push(Recipient(number, f"{name}/x"), self) for number, name in enumerate(names)]
        self.scheduler = scheduler
        for push in pushes:
            scheduler.add(push)
        scheduler.fill()
        return pushes


def origins(kind: str, number: int) -> list[str]:
    return [f"https://{kind}{position}.example.net" for position in range(number)]


FCM = "https://fcm.example.net"
SILENT = {name: float("inf") for name in origins("silent", 1_000)}
SLOW = dict.fromkeys(origins("slow", 10), 1.5)


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    async def with_timeout() -> Any:
        async with asyncio.timeout(10):
            return await test()

    return asyncio.run(with_timeout())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def warm_up(scheduler: Scheduler, name: str = FCM) -> None:
    """Let a push service respond once."""
    batch = Batch({})
    batch.add(scheduler, name)
    await until(lambda: batch.ended)


def test_at_most_the_limit_is_in_flight() -> None:
    async def test() -> None:
        scheduler = Scheduler(8)
        batch = Batch(dict.fromkeys(origins("a", 4), 0.01))
        most = 0
        batch.add(scheduler, *origins("a", 4) * 25)
        while len(batch.ended) < 100:
            most = max(most, len(batch.begun) - len(batch.ended))
            await asyncio.sleep(0)
        assert most == 8

    run(test)


def test_silent_push_services_take_half_of_the_slots_however_many_they_are() -> None:
    async def test() -> None:
        scheduler = Scheduler(16)
        await warm_up(scheduler)
        silent = Batch(SILENT)
        silent.add(scheduler, *SILENT)
        others = Batch({})
        others.add(scheduler, *[FCM] * 500)
        await until(lambda: len(others.ended) == 500)
        assert len(silent.begun) == 8

    run(test)


def test_slow_push_services_leave_half_of_the_slots_to_the_others() -> None:
    async def test() -> None:
        scheduler = Scheduler(16)
        await warm_up(scheduler)
        slow = Batch(SLOW)
        slow.add(scheduler, *list(SLOW) * 20)
        others = Batch({})
        others.add(scheduler, *[FCM] * 500)
        await until(lambda: len(others.ended) == 500)
        assert len(slow.begun) == 8
        await until(lambda: len(slow.ended) >= 8)  # they respond, and still have one share together
        others.add(scheduler, *[FCM] * 500)
        await until(lambda: len(others.ended) == 1_000)
        assert len(slow.begun) <= 16

    run(test)


def test_a_push_service_that_stops_responding_moves_to_the_slow_ones() -> None:
    async def test() -> None:
        scheduler = Scheduler(16)
        await warm_up(scheduler)
        stopped = "https://stopped.example.net"
        await warm_up(scheduler, stopped)
        silent, late = Batch({stopped: float("inf")}), Batch(SILENT)
        silent.add(scheduler, *[stopped] * 50)
        assert len(silent.begun) <= 8
        await asyncio.sleep(1.1)
        scheduler.check()
        late.add(scheduler, *SILENT)
        others = Batch({})
        others.add(scheduler, *[FCM] * 100)
        await until(lambda: len(others.ended) == 100)
        assert len(silent.begun) + len(late.begun) == 8

    run(test)


def test_push_services_that_respond_share_the_slots() -> None:
    async def test() -> None:
        scheduler = Scheduler(16)
        first, second = origins("a", 2)
        for name in (first, second):
            await warm_up(scheduler, name)
        batch = Batch({first: 0.02, second: 0.02})
        batch.add(scheduler, *[first] * 200, *[second] * 20)
        await until(lambda: batch.ended.count(second) == 20)
        assert batch.ended.count(first) < 60

    run(test)


@pytest.mark.parametrize(("is_direct", "limit"), [(False, 64), (True, 96)])
def test_a_push_service_without_http2_gets_few_connections(is_direct: bool, limit: int) -> None:
    async def test() -> None:
        scheduler = Scheduler(512)
        small, large = "https://small.example.net", "https://http2.example.net"
        for name in (small, large):
            await warm_up(scheduler, name)
        batch = Batch({small: 5, large: 5}, is_direct=is_direct)
        batch.add(scheduler, *[small] * 300, *[large] * 150)
        await asyncio.sleep(0.1)
        assert Counter(batch.begun) == {small: limit, large: 150}

    run(test)


def test_a_slow_push_service_without_http2_takes_the_place_of_no_other() -> None:
    async def test() -> None:
        scheduler = Scheduler(512)
        small, others = "https://small.example.net", origins("new", 50)
        batch = Batch({small: 5.0} | dict.fromkeys(others, 5))
        batch.add(scheduler, *[small] * 300, *others)
        await asyncio.sleep(0.1)
        assert Counter(batch.begun) == {small: 64, **dict.fromkeys(others, 1)}

    run(test)


def test_new_push_services_are_tried_in_turns_among_the_slow_ones() -> None:
    async def test() -> None:
        scheduler = Scheduler(4)
        slow = "https://slow0.example.net"
        batch = Batch({slow: 0.3})
        batch.add(scheduler, *[slow] * 100, *origins("new", 20))
        await until(lambda: len(batch.ended) >= 25)
        assert batch.ended.count(slow) < 10

    run(test)


class TestMessagesToOneUser:
    def test_go_before_broadcasts(self) -> None:
        async def test() -> None:
            scheduler = Scheduler(4)
            await warm_up(scheduler)
            broadcast, direct = Batch({FCM: 0.01}), Batch({FCM: 0.01}, is_direct=True)
            broadcast.add(scheduler, *[FCM] * 200)
            direct.add(scheduler, *[FCM] * 5)
            await until(lambda: len(direct.ended) == 5)
            assert len(broadcast.ended) < 20

        run(test)

    def test_find_a_slot_while_broadcasts_to_silent_push_services_wait(self) -> None:
        async def test() -> None:
            scheduler = Scheduler(16)
            broadcast = Batch(SILENT)
            broadcast.add(scheduler, *SILENT)
            direct = Batch({}, is_direct=True)
            direct.add(scheduler, *origins("new", 10))
            await until(lambda: len(direct.ended) == 10)

        run(test)


def test_what_is_withdrawn_or_refused_is_not_sent() -> None:
    async def test() -> None:
        scheduler = Scheduler(1)
        batch = Batch({FCM: 0.01})
        pushes = batch.add(scheduler, *[FCM] * 5)
        scheduler.withdraw(pushes[2])
        batch.refused.add(3)
        await until(lambda: len(batch.ended) == 3)
        assert len(batch.begun) == 3

    run(test)


def test_an_open_circuit_rejects_messages_without_a_slot() -> None:
    async def test() -> None:
        scheduler = Scheduler(2)
        failing, waiting = Batch({FCM: -1}), Batch({})
        failing.add(scheduler, *[FCM] * 10)
        await until(lambda: len(failing.ended) == 10)
        waiting.add(scheduler, *[FCM] * 1_000)
        assert len(waiting.rejected) == 1_000
        assert all(9 < seconds <= 10 for seconds in waiting.rejected)

    run(test)


@pytest.mark.parametrize(("number", "excess"), [(8, 0), (100, 84)])
def test_what_waits_in_vain_is_known(number: int, excess: int) -> None:
    async def test() -> None:
        scheduler = Scheduler(16)
        silent = Batch(SILENT)
        pushes = silent.add(scheduler, *list(SILENT)[:number])
        assert scheduler.excess(pushes[-1]) == excess

    run(test)


def test_what_begins_within_seconds_does_not_wait_in_vain() -> None:
    async def test() -> None:
        scheduler = Scheduler(16)
        batch = Batch({FCM: 0.01})
        pushes = batch.add(scheduler, *[FCM] * 400)
        await until(lambda: len(batch.ended) >= 60)
        assert scheduler.excess(pushes[-1]) == 0

    run(test)


def test_more_is_loaded_when_little_waits_or_no_message_may_use_a_free_slot() -> None:
    async def test() -> None:
        scheduler = Scheduler(16)
        await warm_up(scheduler)

        async def has_capacity() -> bool:
            try:
                async with asyncio.timeout(0.01):
                    await scheduler.wait_for_capacity()
            except TimeoutError:
                return False
            return True

        assert await has_capacity()
        Batch(SILENT).add(scheduler, *list(SILENT)[:500])
        assert await has_capacity()  # half of the slots are free
        Batch({FCM: 5}).add(scheduler, *[FCM] * 8)
        assert not await has_capacity()

    run(test)


def test_a_message_is_in_flight_until_its_outcome_is_recorded() -> None:
    async def test() -> None:
        asked = []
        scheduler = Scheduler(8, lambda: asked.append(len(batch.ended)))
        batch = Batch({})
        batch.add(scheduler, *[FCM] * 20)
        batch.scheduler = None
        await until(lambda: len(batch.ended) == 8)
        await asyncio.sleep(0.05)
        assert len(batch.begun) == 8
        assert asked[0] == 2  # a quarter: the others still have slots
        scheduler.recorded(5)
        await until(lambda: len(batch.ended) == 13)

    run(test)
