"""`import rimstone` does nothing but import: no thread, no descriptor, no patch, nothing that loads slowly."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

LOOK_BEFORE_AND_AFTER = """
import builtins, inspect, json, os, sys
import _socket, _thread, queue, select, selectors, signal, socket, subprocess, threading, time

MODULES = [builtins, _socket, _thread, os, queue, select, selectors, signal, socket, subprocess, sys, threading, time]
ONES_OWN = {  # what importing anything changes
    "__builtins__", "modules", "path_importer_cache", "last_type", "last_value", "last_traceback", "last_exc"
}

def attributes():
    # By identity, so a replacement is seen that equals what it replaces.
    found = {}
    for module in MODULES:
        for name, value in vars(module).items():
            if name not in ONES_OWN:
                found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                for member, inner in vars(value).items():
                    if not member.startswith("_abc_"):
                        found[f"{module.__name__}.{name}.{member}"] = inner
    for number in signal.valid_signals():
        found[f"handler of signal {number}"] = signal.getsignal(number)
    for number, finder in enumerate(sys.meta_path):
        found[f"sys.meta_path[{number}]"] = finder
    return found

def threads():
    return len(os.listdir("/proc/self/task"))

def descriptors():
    return len(os.listdir("/proc/self/fd"))

modules, before = set(sys.modules), attributes()
threads_before, descriptors_before = threads(), descriptors()

import rimstone
for name in rimstone.__all__:  # they are loaded at their first use
    getattr(rimstone, name)

after = attributes()
print(json.dumps({
    "threads": threads() - threads_before,
    "descriptors": descriptors() - descriptors_before,
    "changed": [name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)],
    "modules": sorted(set(sys.modules) - modules),
}))
"""


def look(script: str = LOOK_BEFORE_AND_AFTER) -> dict[str, Any]:
    environment = {**os.environ, "RIMSTONE_PURE": ""}  # which puts a finder into sys.meta_path, as it is asked to
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What changed when a fresh interpreter imported rimstone."""
    return look()


def test_starts_no_thread(seen: dict[str, Any]) -> None:
    assert seen["threads"] == 0


def test_opens_no_descriptor(seen: dict[str, Any]) -> None:
    assert seen["descriptors"] == 0


def test_patches_nothing(seen: dict[str, Any]) -> None:
    assert seen["changed"] == []


@pytest.mark.slow
def test_a_patch_would_be_seen() -> None:
    patched = look(LOOK_BEFORE_AND_AFTER.replace("import rimstone\n", "import rimstone; rimstone.monkey.patch_all()\n"))
    assert {"socket.socket.recv", "time.sleep"} <= set(patched["changed"])


@pytest.mark.parametrize("module", ["rich", "typer", "psutil", "asyncio", "multiprocessing", "ssl"])
def test_does_not_load(module: str, seen: dict[str, Any]) -> None:
    loaded = [name for name in seen["modules"] if name == module or name.startswith(module + ".")]
    assert not loaded
    assert "rimstone" in seen["modules"]
