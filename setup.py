"""Builds the compiled core where it can be built; the package is whole without it. All metadata is in pyproject.toml.

The same .py files are the pure core and, with the types that the .pxd beside each adds, the source of the compiled one;
a .pyx replaces its twin of the same name. See docs/adr/0008. All of them or none: half a compiled core would not run.

With RIMSTONE_REQUIRE_CORE=1 it is an error that the core cannot be built: for wheels, and for work on the core.
"""

import glob
import os
import sys
import sysconfig
import textwrap
from collections.abc import Collection

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = [
    "src/rimstone/iomodel/base.py",
    "src/rimstone/iomodel/_entry.pyx",
    "src/rimstone/iomodel/_poller.pyx",
    "src/rimstone/iomodel/_readiness.py",
    "src/rimstone/iomodel/_ring.pyx",
    "src/rimstone/iomodel/epoll.py",
    "src/rimstone/iomodel/uring.py",
    "src/rimstone/hub/_native.pyx",
    "src/rimstone/hub/taskcore.py",
    "src/rimstone/hub/timers.py",
    "src/rimstone/hub/scheduler.py",
    "src/rimstone/hub/parking.py",
    "src/rimstone/hub/task.py",
    "src/rimstone/monkey/_stream.py",
]
# Bounds and negative indices stay checked. The lists of the core are shared with signal handlers and with `close`, and
# one that is shorter than it was must raise IndexError, not read what is not there; arrays of C are never checked.
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # the .pxd files say what is a C type; the annotations are for people and mypy
    "auto_pickle": False,
    "binding": True,  # functions have signatures, as those in Python have
}
# -g0 undoes the -g among Python's own flags: a third of the compiler's time, and three quarters of each file.
FLAGS = ["-O2", "-fno-strict-aliasing", "-g0"]
MORE_FLAGS = {"src/rimstone/hub/_native.pyx": ["-fexceptions"]}  # it cleans up when a thread is unwound


class BuildCore(build_ext):
    """Builds all extensions or none, and says so."""

    def run(self) -> None:
        """Translate to C and compile, on all CPUs."""
        # A wheel gets all that lies in `build_lib`, also what another build has left there.
        folders = [self.build_lib, *(["src"] if self.inplace else [])]
        try:
            cpus = len(os.sched_getaffinity(0))
            self._translate(cpus)
            self.parallel = self.parallel or cpus
            super().run()
            remove_compiled(folders, keep={extension.name for extension in self.extensions})
        except BaseException as error:  # whatever a compiler, or its absence, does
            remove_compiled(folders)  # what was built from other sources must not stay beside the new ones
            if is_required() or isinstance(error, KeyboardInterrupt):
                raise
            say(textwrap.shorten(f"{type(error).__name__}: {error}", 300))
            self.extensions = []

    def _translate(self, cpus: int) -> None:
        import greenlet
        from Cython.Build import cythonize

        include = os.path.dirname(os.path.dirname(greenlet.__file__))  # the package contains greenlet/greenlet.h
        translated = cythonize(
            extensions(),
            include_path=["src"],
            build_dir="build/core",
            compiler_directives=DIRECTIVES,
            force=self.force,
            nthreads=cpus,
            quiet=True,
        )
        for extension, in_c in zip(self.extensions, translated, strict=True):
            extension.sources, extension.depends, extension.include_dirs = in_c.sources, in_c.depends, [include]
        # The longest first, so that no CPU idles while another compiles it at the end.
        self.extensions.sort(key=lambda extension: os.path.getsize(extension.sources[0]), reverse=True)


def extensions() -> list[Extension]:
    """One for each source of the core."""
    return [
        Extension(
            module_of(source.removeprefix("src/")),
            [source],
            extra_compile_args=FLAGS + MORE_FLAGS.get(source, []),
        )
        for source in CORE
    ]


def module_of(source: str) -> str:
    """The name under which a source, or what was made from it, is imported; *source* is relative to src."""
    folder, file = os.path.split(source)
    return f"{folder}/{file.partition('.')[0]}".replace("/", ".")


def compiled_in(folders: list[str]) -> dict[str, str]:
    """What this Python would load as a compiled module of rimstone: files, with the names of the modules."""
    suffix = glob.escape(sysconfig.get_config_var("EXT_SUFFIX"))
    return {
        file: module_of(os.path.relpath(file, folder))
        for folder in folders
        for file in glob.glob(f"{glob.escape(folder)}/rimstone/**/*{suffix}", recursive=True)
    }


def remove_compiled(folders: list[str], keep: Collection[str] = ()) -> None:
    """Delete compiled modules, but for those named in *keep*."""
    for file, module in compiled_in(folders).items():
        if module not in keep:
            os.remove(file)


def is_required() -> bool:
    """Whether a build without the core is an error."""
    return os.environ.get("RIMSTONE_REQUIRE_CORE", "") not in {"", "0"}


def say(why: str) -> None:
    """Tell the person who installs."""
    sys.stderr.write(f"rimstone: no compiled core ({why}); the pure one will be used\n")


can_have_core = sys.platform.startswith("linux") and sys.implementation.name == "cpython"
if not can_have_core:  # the twins in C are written for Linux
    if is_required():
        sys.exit("RIMSTONE_REQUIRE_CORE is set, but the compiled core exists for CPython on Linux only: unset it")
    say("it exists for CPython on Linux only")
setup(ext_modules=extensions() if can_have_core else [], cmdclass={"build_ext": BuildCore})
