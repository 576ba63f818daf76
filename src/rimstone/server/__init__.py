"""StreamServer: plain, blocking functions that serve TCP and Unix connections. Read `service.py` first."""

from rimstone.server.serve import serve
from rimstone.server.stream import StreamServer

__all__ = ["StreamServer", "serve"]
