"""Numbered questions to the broker, on the event loop: each is asked again until it is answered."""

import asyncio
from collections.abc import Callable

from tokenyard.broker.answers import Collector
from tokenyard.broker.config import SUBMIT_REPEAT_S
from tokenyard.broker.wire import Answer, Message


class Questions:
    """Those of one front; all calls on the event loop's thread."""

    def __init__(self, tell: Callable[[Message], None]) -> None:
        """`tell`: sends to the broker."""
        self._tell = tell
        self._open: dict[int, tuple[Collector, asyncio.Future[Answer]]] = {}
        """Unanswered ones, by their number."""
        self._next_req = 1

    async def ask(self, question: Callable[[int], Message], seconds: float) -> Answer | None:
        """`question` makes the message of its number. None where no answer comes in this time."""
        req, self._next_req = self._next_req, self._next_req + 1
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[req] = Collector(), answer
        try:
            async with asyncio.timeout(seconds):
                while not answer.done():
                    self._tell(question(req))
                    await asyncio.wait({answer}, timeout=SUBMIT_REPEAT_S)
            return answer.result()
        except TimeoutError:
            return None
        finally:
            del self._open[req]

    def hear(self, message: Answer) -> None:
        if question := self._open.get(message.req):
            collector, answer = question
            whole = collector.take(message)
            if whole is not None and not answer.done():
                answer.set_result(whole)
