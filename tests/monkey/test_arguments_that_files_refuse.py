"""What the original calls refuse, those in their place refuse in the same words: errors are part of what people see."""

import functools

import pytest

from rimstone.testing.patched import in_patched_process as in_patched

in_patched_process = functools.partial(in_patched, files=True)

NATIVE = """
import os, io
NATIVE = {name: getattr(os, name) for name in dir(os)} | {"open": open, "FileIO": io.FileIO}
"""


def said(call, *args, **kwargs):
    """The error of a call, or what it returns."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@in_patched_process(said, before=NATIVE)
@pytest.mark.parametrize("model", ["epoll", "uring"])
def test_os_calls(model):
    import os
    import tempfile

    from rimstone import iomodel, sleep, spawn

    if iomodel.available()[model] is not None:
        return
    os.environ["RIMSTONE_IO_MODEL"] = model
    huge = 2**70

    def body():
        with tempfile.TemporaryFile(buffering=0) as file:
            fd = file.fileno()
            for name, *args in [
                ("read", fd),
                ("read", fd, "1"),
                ("read", fd, 1.5),
                ("read", fd, -1),
                ("read", fd, huge),
                ("read", "x", 1),
                ("read", fd, 1, 2),
                ("pread", fd, 10, "x"),
                ("pread", fd, 10, -1),
                ("pread", fd, huge, 0),
                ("pread", fd, 10, huge),
                ("preadv", fd, [bytearray(3)], "x"),
                ("preadv", fd, [bytearray(3)], 0, "x"),
                ("preadv", fd, [bytearray(3)], huge),
                ("write", fd, "x"),
                ("write", fd),
                ("pwrite", fd, b"q", None),
                ("pwrite", fd, b"q", huge),
                ("pwritev", fd, [b"q"], None),
                ("fsync", "x"),
                ("fsync", None),
                ("fsync", -1),
                ("fsync", huge),
                ("fsync", 9999),
                ("fsync",),
                ("fdatasync", None),
                ("fdatasync", -1),
                ("ftruncate", fd),
                ("ftruncate", "x", 1),
                ("close",),
                ("close", "x"),
                ("close", fd, 1),
            ]:
                expected = said(NATIVE[name], *args)
                assert "Error" in expected, (name, args)
                assert said(getattr(os, name), *args) == expected, (name, args)
            os.write(fd, b"some")
            assert os.fsync(fd=file) is None

            class Two:
                def __index__(self):
                    return 2

            assert os.pread(fd, Two(), Two()) == b"me"

    spawn(sleep, 60)
    spawn(body).get()


@in_patched_process(said, before=NATIVE)
@pytest.mark.parametrize("model", ["epoll", "uring"])
def test_open_and_raw_files(model):
    import os
    import warnings

    from rimstone import iomodel, sleep, spawn

    if iomodel.available()[model] is not None:
        return
    os.environ["RIMSTONE_IO_MODEL"] = model

    def body():
        for args, kwargs in [((), {}), ((os.__file__,), {"foo": 1}), ((os.__file__, "r", -1, None, "strict", 5), {})]:
            assert said(open, *args, **kwargs) == said(NATIVE["open"], *args, **kwargs)
        with open(os.devnull, "r+b", buffering=0) as file, NATIVE["FileIO"](os.devnull, "r+b") as native:
            for name, *args in [
                ("read", "x"),
                ("read", 1.5),
                ("read", 2**70),
                ("readinto", b"abc"),
                ("write", "x"),
                ("write", None),
                ("truncate", "x"),
            ]:
                expected = said(getattr(native, name), *args)
                assert "Error" in expected, (name, args)
                assert said(getattr(file, name), *args) == expected, (name, args)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with open(os.devnull, "rb", buffering=1):
                pass
        assert [warning.filename for warning in caught] == ["<string>"]

    spawn(sleep, 60)
    spawn(body).get()
