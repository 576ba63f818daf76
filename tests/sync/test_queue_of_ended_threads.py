"""An item is not lost on a task whose thread has ended while it waited for one."""

import threading

from rimstone.hub import sleep, spawn
from rimstone.sync import SimpleQueue


def test_item_goes_to_a_live_task():
    things = SimpleQueue()

    def leave():
        spawn(things.get)
        sleep(0)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    task = spawn(things.get, True, 20)
    sleep(0)
    things.put("item")
    assert task.get() == "item"
