"""The one place that holds the standard library's functions as they were before any patching.

Everything below `monkey` takes its sockets, locks, threads and sleeps from here, so that the library itself
never waits on something that it has replaced. `monkey` replaces attributes of *modules and classes*; the names
below keep pointing at what stood there first.
"""

import _socket
import _thread
import os
import queue
import select
import threading
import time
from typing import Any

allocate_lock = _thread.allocate_lock
RLock = _thread.RLock
SimpleQueue = queue.SimpleQueue
Thread = threading.Thread
get_ident = threading.get_ident
# The C type, not `threading.local`: the latter is replaced by task-local storage.
native_local = _thread._local
sleep = time.sleep

RawSocket = _socket.socket
socketpair = _socket.socketpair
getaddrinfo = _socket.getaddrinfo
poll = getattr(select, "poll", None)
select_select = select.select

os_close = os.close
os_read = os.read
os_write = os.write
os_readv = getattr(os, "readv", None)
os_preadv = getattr(os, "preadv", None)
os_pread: Any = getattr(os, "pread", None)
os_pwrite = getattr(os, "pwrite", None)
os_pwritev = getattr(os, "pwritev", None)
os_ftruncate: Any = getattr(os, "ftruncate", None)
os_fsync = os.fsync
os_fdatasync = getattr(os, "fdatasync", os.fsync)
