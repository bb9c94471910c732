"""A TCP proxy that is a bad network: it cuts, silences, delays and throttles the connections through it."""
import asyncio
import contextlib
import dataclasses
import threading

UP, DOWN = "up", "down"  # from who connects, to who connects


@dataclasses.dataclass(frozen=True)
class Weather:
    """Bytes of a dead direction are held, as TCP holds what it must send again, and come once it is well."""
    refuses: bool = False  # connections are reset, new ones at once
    dead: tuple = ()       # of UP, DOWN
    delay: float = 0.0     # seconds for each piece
    bytes_per_second: float = float("inf")


class Proxy:
    """Listens on host:port until closed. Any thread may call any method."""

    def __init__(self, host, target):
        self._target = target  # (host, port)
        self._weather = Weather()
        self._changed = None
        self._writers = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(self._listen(host))
        self.address = "%s:%d" % self._server.sockets[0].getsockname()[:2]

    def set(self, weather):
        self._call(self._set(weather))

    def close(self):
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _listen(self, host):
        self._changed = asyncio.Condition()
        return await asyncio.start_server(self._serve, host, 0)

    async def _set(self, weather):
        self._weather = weather
        if weather.refuses:
            self._abort()
        async with self._changed:
            self._changed.notify_all()

    async def _close(self):
        self._server.close()
        self._abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _abort(self):
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        self._writers.add(writer)
        other = None
        try:
            if self._weather.refuses:
                return
            with contextlib.suppress(OSError, asyncio.CancelledError):  # cancelled by _close()
                far_reader, other = await asyncio.open_connection(*self._target)
                self._writers.add(other)
                pumps = [asyncio.ensure_future(self._pump(reader, other, UP)),
                         asyncio.ensure_future(self._pump(far_reader, writer, DOWN))]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for one in (writer, other):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _pump(self, reader, writer, direction):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                async with self._changed:
                    await self._changed.wait_for(lambda: direction not in self._weather.dead)
                await asyncio.sleep(self._weather.delay + len(data) / self._weather.bytes_per_second)
                writer.write(data)
                await writer.drain()
