"""When and how things are patched: in place, once, whenever a module is imported, and at little cost."""

from rimstone.testing.patched import in_patched_process, run_script


def check(script):
    done = run_script(script)
    assert done.returncode == 0, done.stderr


def test_import_of_rimstone_patches_nothing():
    check("""
import _thread, queue, selectors, socket, threading, time
kept = (time.sleep, threading.Lock, threading.RLock, threading.local, queue.SimpleQueue, socket.getaddrinfo,
        socket.socket.recv, socket.socket.__init__, selectors.EpollSelector.select)
import rimstone, rimstone.monkey
assert kept == (time.sleep, threading.Lock, threading.RLock, threading.local, queue.SimpleQueue, socket.getaddrinfo,
        socket.socket.recv, socket.socket.__init__, selectors.EpollSelector.select)
assert not rimstone.monkey.is_patched()
import sys
assert not any(type(finder).__module__.startswith("rimstone") for finder in sys.meta_path)
""")


def test_patching_twice_is_patching_once():
    check("""
import socket, sys, threading
import rimstone.monkey as monkey
monkey.patch_all()
kept = socket.socket.recv, threading.Lock, len(sys.meta_path)
monkey.patch_all()
assert kept == (socket.socket.recv, threading.Lock, len(sys.meta_path))
parts = "fork os io time threading import socket dns selectors ssl asyncio".split()
assert all(monkey.is_patched(part) for part in parts)
assert not monkey.is_patched("subprocess")
""")


def test_patching_imports_neither_tls_nor_asyncio():
    check("""
import sys
import rimstone.monkey
before = {"ssl", "asyncio"} & set(sys.modules)
rimstone.monkey.patch_all()
assert {"ssl", "asyncio"} & set(sys.modules) == before
import rimstone.hub
assert rimstone.hub.current_hub() is None
""")


def test_sockets_keep_their_class_and_their_signatures():
    check("""
import inspect, socket
from socket import socket as early
import rimstone.monkey
signatures = {name: inspect.signature(getattr(socket.socket, name)) for name in ("sendfile", "makefile", "accept")}
rimstone.monkey.patch_all()
assert socket.socket is early and issubclass(early, __import__("_socket").socket)
for name, signature in signatures.items():
    assert inspect.signature(getattr(socket.socket, name)) == signature
one, other = socket.socketpair()
assert type(one) is early and repr(one).startswith("<socket.socket fd=")
one.close(); other.close()
""")


def test_tls_is_patched_when_it_is_imported():
    check("""
import importlib, importlib.util, sys
import rimstone.monkey
rimstone.monkey.patch_all()
sys.modules.pop("ssl", None)
spec = importlib.util.find_spec("ssl")   # somebody only looks whether there is one
assert spec.origin.endswith("ssl.py")
assert spec.loader.get_code("ssl")
import ssl
def patched():
    return ssl.SSLSocket.gettimeout.__module__ == "rimstone.monkey._ssl"
assert patched()
assert type(ssl.__loader__) is type(importlib.__loader__ if False else __import__("queue").__loader__)
assert ssl.__spec__.loader is ssl.__loader__
assert ssl.__spec__.name == "ssl" and ssl.__file__ == ssl.__spec__.origin
importlib.reload(ssl)
assert patched()
assert type(ssl.__loader__) is type(__import__("queue").__loader__)
""")


def test_asyncio_is_patched_when_it_is_imported():
    for first in ("import asyncio", "pass"):
        check(f"""
{first}
import rimstone.monkey
rimstone.monkey.patch_all()
import asyncio
assert asyncio.base_events.BaseEventLoop.run_forever.__module__ == "rimstone.aio"
""")


def test_modules_that_do_not_exist_still_do_not():
    check("""
import rimstone.monkey
from rimstone.monkey._on_import import when_imported
when_imported("no_such_module", lambda: 1 / 0)
try:
    import no_such_module
except ModuleNotFoundError as error:
    assert error.name == "no_such_module"
""")


@in_patched_process()
def test_import_lock_is_native():
    import _thread
    import threading

    import rimstone.sync

    assert _thread.allocate_lock is not threading.Lock
    assert threading.Lock is rimstone.sync.Lock
    assert isinstance(threading.Lock(), threading.Lock)
    assert type(threading.Condition()._lock) is rimstone.sync.RLock
