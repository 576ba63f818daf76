"""The least that an installed rimstone must do, with nothing else installed: `python smoke.py [compiled|pure]`.

For wheels, which cibuildwheel tries on each system, and for whoever wants to know whether an install is good.
"""

import os
import socket
import sys

import rimstone
from rimstone._core import core, why_pure
from rimstone.tour import CHAPTERS

expected = sys.argv[1] if len(sys.argv) > 1 else core()
if core() != expected:
    sys.exit(f"the {core()} core runs, not the {expected} one ({why_pure()})")

rimstone.monkey.patch_all()
near, far = socket.socketpair()
with near, far:
    upper = rimstone.spawn(lambda: far.sendall(far.recv(100).upper()))
    near.sendall(b"hello")
    assert near.recv(100) == b"HELLO"
    upper.join()
with rimstone.ThreadPoolExecutor() as pool:
    assert list(pool.map(abs, range(-3, 0))) == [3, 2, 1]
assert all(os.path.exists(lesson.path) for chapter in CHAPTERS for lesson in chapter.lessons)
print(f"rimstone works on Python {sys.version.split()[0]} with the {core()} core")
