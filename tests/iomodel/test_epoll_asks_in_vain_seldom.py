"""epoll: who waits for the next event asks the kernel once, not first whether there is one and then for it."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from rimstone.iomodel.epoll import EpollModel

pytestmark = [
    pytest.mark.skipif(EpollModel.why_unavailable() is not None, reason=str(EpollModel.why_unavailable())),
    pytest.mark.skipif(
        shutil.which("strace") is None, reason="strace, which counts the system calls, is not installed"
    ),
]

WAITS = 300


def system_calls(tmp_path, code):
    """How often the program calls epoll_wait."""
    program = f"from rimstone.hub import get_hub\nio = get_hub().io\n{textwrap.dedent(code)}"
    output = tmp_path / "count"
    command = ["strace", "-f", "-q", "-o", str(output), "-e", "trace=epoll_wait,epoll_pwait", sys.executable, "-c"]
    environment = {**os.environ, "RIMSTONE_IO_MODEL": "epoll"}
    done = subprocess.run([*command, program], env=environment, capture_output=True, text=True, timeout=60, check=False)
    if "ptrace" in done.stderr:
        pytest.skip(f"strace may not be used here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return len(re.findall(r"epoll_p?wait\(", output.read_text()))


def test_waits_that_find_nothing_at_first_do_not_ask_before(tmp_path):
    assert WAITS <= system_calls(tmp_path, f"for _ in range({WAITS}): io.poll(0.0001)") < 1.1 * WAITS


def test_an_event_that_is_there_takes_one_call(tmp_path):
    code = f"""
        for _ in range({WAITS}):
            io.wake()
            io.poll(None)
    """
    assert WAITS <= system_calls(tmp_path, code) < 1.1 * WAITS
