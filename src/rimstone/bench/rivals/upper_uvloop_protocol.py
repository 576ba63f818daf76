"""The upper-case server on uvloop, as a callback protocol: the fastest way it has. Argument: port (0 is any)."""

import asyncio
import sys

import uvloop


class Upper(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data.upper())


async def serve():
    # uvloop sets TCP_NODELAY on every connection itself.
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upper, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


uvloop.run(serve())
