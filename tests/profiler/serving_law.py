"""An OpenAI-compatible server on asyncio with a known latency law, or with a fault.

Prompts run one at a time, a decode step is taken together: see `prefill_ms` and
`decode_ms`. Time is kept against a schedule, so that late wake-ups do not add up.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PREFILL_MS = 60.0
PER_TOKEN_MS = 0.08
STEP_MS = 30.0
PER_REQUEST_MS = 2.0
PER_KV_MS = 0.002


def prefill_ms(tokens: int) -> float:
    return PREFILL_MS + PER_TOKEN_MS * tokens


def decode_ms(requests: int, kv_tokens: float) -> float:
    return STEP_MS + PER_REQUEST_MS * requests + PER_KV_MS * kv_tokens


@dataclass
class Job:
    """A request under way."""

    prompt: int
    left: int
    events: asyncio.Queue[bool] = field(default_factory=asyncio.Queue)
    context: int = 0


class LawServer:
    """`fault` is what goes wrong with the first `faults` requests."""

    def __init__(self, fault: str = "", faults: int = 10**9) -> None:
        self.fault, self.faults = fault, faults
        self.num_asked = 0
        self.port = 0
        self._waiting: list[Job] = []
        self._running: list[Job] = []

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self._engine = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """The engine: prompts one by one, otherwise everyone takes a step."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # A late wake-up is made up for, a long pause is not.
            due = max(due, loop.time() - 0.02)
            if self._waiting:
                job = self._waiting.pop(0)
                due += prefill_ms(job.prompt) * 1e-3
                await self._until(due)
                job.context = job.prompt
                self._running.append(job)
                self._emit([job])
            elif self._running:
                jobs = list(self._running)
                for job in jobs:
                    job.context += 1
                due += decode_ms(len(jobs), sum(j.context for j in jobs)) * 1e-3
                await self._until(due)
                self._emit(jobs)
            else:
                await asyncio.sleep(0.0002)
                due = loop.time()

    async def _until(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, due - loop.time() - 0.001))
        while loop.time() < due:
            await asyncio.sleep(0)

    def _emit(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.left -= 1
            job.events.put_nowait(job.left == 0)
            if job.left == 0:
                self._running.remove(job)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split()[0])
        body = json.loads(await reader.readexactly(length))
        self.num_asked += 1
        is_faulty = self.fault and self.num_asked <= self.faults
        try:
            if is_faulty and self.fault == "status_500":
                writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nfull")
            elif is_faulty and self.fault == "silent":
                await asyncio.sleep(30)
            else:
                await self._stream(writer, body, self.fault if is_faulty else "")
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _stream(
        self, writer: asyncio.StreamWriter, body: dict[str, object], fault: str
    ) -> None:
        prompt, num = body["prompt"], int(str(body["max_tokens"]))
        assert isinstance(prompt, list)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        if fault == "trickle":
            while True:  # bytes without end, never a line
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        job = Job(prompt=len(prompt), left=num)
        self._waiting.append(job)
        for index in range(num):
            await job.events.get()
            if fault == "closes" and index == 1:
                return
            if fault == "stalls" and index == 1:
                await asyncio.sleep(30)
            event = {"choices": [{"text": "a", "index": 0}]}
            writer.write(f"data: {json.dumps(event)}\n\n".encode())
        usage = {"choices": [], "usage": {"prompt_tokens": len(prompt)}}
        writer.write(f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())


@contextmanager
def serving(fault: str = "", faults: int = 10**9) -> Iterator[LawServer]:
    """A server in a thread of its own, until the block ends."""
    server = LawServer(fault, faults)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield server
    finally:

        async def cancel_all() -> None:
            server.server.close()
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel_all(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
