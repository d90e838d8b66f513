"""The parts of the simulation do what they stand for: time, death, disk and network."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))

from simulated_loop import Life, SimulatedLoop
from simulated_network import Network, NoAnswer, Reply, Request, Weather


def loop(seed: int = 1) -> SimulatedLoop:
    return SimulatedLoop(Random(seed))


class Echo:
    life = None
    is_up = True
    served = 0

    def __init__(self, name: str) -> None:
        self.name = name

    async def serve(self, request: Request, peer: str) -> Reply:
        self.served += 1
        return Reply(status=200, body=request.body)


def network(of: SimulatedLoop, **weather: float) -> tuple[Network, Echo]:
    made = Network(of, Random(1), Weather(**weather), lambda _text: None, lambda *_request: None)
    echo = made.hosts["e"] = Echo("e")
    return made, echo


async def ask(of: Network) -> Reply | NoAnswer:
    try:
        return await of.exchange("s", "sim://e/in", Request(body=b"{}"), connect=2, answer=8)
    except NoAnswer as failure:
        return failure


def test_hours_pass_in_no_time() -> None:
    simulated, seen = loop(), []

    async def sleeps() -> None:
        await asyncio.sleep(3600)
        async with asyncio.timeout(1):
            seen.append(await asyncio.to_thread(str, "beside"))
        seen.append(asyncio.get_running_loop().time() >= 3600)

    simulated.begin(None, sleeps())
    simulated.run(7200)
    assert (seen, simulated.time()) == (["beside", True], 7200)


def test_what_is_killed_does_not_even_clean_up() -> None:
    simulated, seen = loop(), []
    life = Life("b", lambda: seen.append("killed"))

    async def works() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            seen.append("cleaned up")

    task = simulated.begin(life, works())
    simulated.run(5)
    life.alive = False
    simulated.run(20)
    assert (seen, task.done()) == ([], False)
    simulated.end()


def test_fuse_kills_between_two_steps() -> None:
    simulated, seen = loop(), []

    def killed() -> None:
        life.alive = False

    life = Life("b", killed)

    async def counts() -> None:
        for number in range(10):
            seen.append(number)
            await asyncio.sleep(0)

    life.fuse = 4
    simulated.begin(life, counts())
    simulated.run(1)
    assert seen == [0, 1, 2, 3]
    simulated.end()


def test_order_of_what_comes_at_once_is_the_seeds() -> None:
    def order(seed: int) -> list[int]:
        simulated, seen = loop(seed), []
        for number in range(10):
            simulated.call_at(1.0, seen.append, number)
        simulated.run(2)
        return seen

    assert order(1) == order(1) != order(2)
    assert sorted(order(2)) == list(range(10))


def test_packet_that_is_lost_is_no_answer_and_may_have_left() -> None:
    simulated = loop()
    net, echo = network(simulated, lost=1.0)
    task = simulated.begin(None, ask(net))
    simulated.run(60)
    result = task.result()
    assert isinstance(result, NoAnswer)
    assert (result.left, echo.served) == (True, 0)


def test_cut_cable_is_no_connection_and_nothing_has_left() -> None:
    simulated = loop()
    net, echo = network(simulated)
    net.cut.add(frozenset(("s", "e")))
    task = simulated.begin(None, ask(net))
    simulated.run(60)
    result = task.result()
    assert isinstance(result, NoAnswer)
    assert (result.left, echo.served) == (False, 0)


def test_doubled_packet_is_served_twice_and_answered_once() -> None:
    simulated = loop()
    net, echo = network(simulated, doubled=1.0)
    task = simulated.begin(None, ask(net))
    simulated.run(60)
    assert (task.result(), echo.served) == (Reply(status=200, body=b"{}"), 2)
    assert net.copies["e", b"{}"] == 1
