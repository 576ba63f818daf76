"""The upper-case server on uvloop, through asyncio's streams. Argument: port (0 is any)."""

import asyncio
import sys

import uvloop


async def talk(reader, writer):
    while True:
        data = await reader.read(1024)
        if not data:
            break
        writer.write(data.upper())
        await writer.drain()
    writer.close()


async def serve():
    # uvloop sets TCP_NODELAY on every connection itself.
    server = await asyncio.start_server(talk, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


uvloop.run(serve())
