"""Builds the compiled core where it can be built; the package is whole without it. All metadata is in pyproject.toml.

The same .py files are the pure core and, with the types that the .pxd beside each adds, the source of the compiled one;
a .pyx replaces its twin of the same name. See docs/adr/0008. All of them or none: half a compiled core would not run.
"""

import os
import sys
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = [
    *("src/rimstone/iomodel/base.py", "src/rimstone/iomodel/_entry.pyx", "src/rimstone/iomodel/_poller.pyx"),
    *("src/rimstone/iomodel/_readiness.py", "src/rimstone/iomodel/epoll.py"),
    *("src/rimstone/hub/_native.pyx", "src/rimstone/hub/taskcore.py", "src/rimstone/hub/timers.py"),
    *("src/rimstone/hub/scheduler.py", "src/rimstone/hub/parking.py", "src/rimstone/hub/task.py"),
    "src/rimstone/monkey/_stream.py",
]
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # the .pxd files say what is a C type; the annotations are for people and mypy
    "auto_pickle": False,
    "binding": True,
}


class BuildCore(build_ext):
    """Builds all extensions or none, and says so."""

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:  # whatever a compiler, or its absence, does
            if os.environ.get("RIMSTONE_REQUIRE_CORE") or isinstance(error, KeyboardInterrupt):
                raise
            print(f"rimstone: no compiled core ({error}); the pure one will be used", file=sys.stderr)
            self.extensions = []
            remove_built()


def remove_built() -> None:
    """An extension that was built before, from other sources, must not stay beside the new ones."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for source in CORE:
        built = os.path.splitext(source)[0] + suffix
        if os.path.exists(built):
            os.remove(built)


def extensions() -> list[Extension]:
    """The compiled core, if this system can have one."""
    if not sys.platform.startswith("linux") or sys.implementation.name != "cpython":
        return []  # the twins in C are written for Linux
    try:
        import greenlet
        from Cython.Build import cythonize
    except ImportError as error:
        print(f"rimstone: no compiled core ({error}); the pure one will be used", file=sys.stderr)
        return []
    include = os.path.dirname(os.path.dirname(greenlet.__file__))
    modules = [
        Extension(
            os.path.splitext(source)[0].removeprefix("src/").replace("/", "."),
            [source],
            include_dirs=[include],
            extra_compile_args=["-O2", "-fno-strict-aliasing"],
        )
        for source in CORE
    ]
    return cythonize(
        modules, include_path=["src"], build_dir="build/core", compiler_directives=DIRECTIVES, quiet=True
    )


remove_built()
setup(ext_modules=extensions(), cmdclass={"build_ext": BuildCore})
