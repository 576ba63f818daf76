"""Who waits for what, and where: `tasks` lists the tasks of a program, `dump` prints them with their stacks.

Five tasks wait for different things. When a program of yours hangs, `rimstone.hub.dump_on_signal(signal.SIGUSR1)`
makes `kill -USR1` print the same of it.
"""

from rimstone import monkey

monkey.patch_all()

import queue
import socket
import sys
import threading
import time

from rimstone import dump, sleep, spawn, tasks

near, far = socket.socketpair()
inbox = queue.Queue()
lock = threading.Lock()


def take_lock():
    with lock:
        return "done"


lock.acquire()
waiting = [spawn(near.recv, 100), spawn(inbox.get), spawn(time.sleep, 60), spawn(take_lock), spawn(take_lock)]
sleep(0)  # lets each run until it waits

for task in tasks():
    print(task)
print()
dump(sys.stdout)
for task in waiting:
    task.kill()
print(f"after the kill: {tasks()}")
