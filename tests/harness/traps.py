"""A place full of traps: files and variables through which a caller could make a careless program run its code.

Each trap writes its name and its effective uid into one file, so that a test can see which ran, and as whom.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from .install import PYTHON, run

LIBRARY = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void tell(void)
{
    int fd = open(MARKS, O_WRONLY | O_APPEND);
    dprintf(fd, "library %d\n", (int)geteuid());
    close(fd);
}
unsigned la_version(unsigned version) { return version; }
"""
SHADOWED = ("privbind", "posix", "struct", "encodings", "site", "sitecustomize", "errno", "_signal", "fcntl", "select")
FUNCTIONS = (
    "exec",
    "read",
    "printf",
    "[",
    "test",
    "unset",
    "cat",
    "readlink",
    "case",
    "command",
    "set",
    "export",
    "for",
)
PROGRAMS = ("python3", "cat", "readlink", "sh", "env", "id", "expr", "sed", "privbind")


class Trap(NamedTuple):
    """One way in: the variables it takes, and a careless command that falls for it."""

    name: str
    environment: dict[str, str]
    control: list[str]


class Traps:
    """The folder with all of them. Commands are to be started in its `work` folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.touch()
        self.marks.chmod(0o666)
        self.work = folder / "work"
        self.work.mkdir()
        self.home = folder / "home"
        self._version = run(PYTHON, "-c", "import sys; print('python%d.%d' % sys.version_info[:2])").strip()
        self.traps = [
            self._python_path(),
            self._working_folder(),
            self._startup(),
            self._python_home(),
            *self._user_site(),
            self._pth_in_working_folder(),
            *self._shells(),
            self._programs(),
            *self._libraries(),
        ]

    def environment(self) -> dict[bytes, bytes]:
        """All variables at once."""
        found: dict[bytes, bytes] = {b"TEXT": b"\xff not UTF-8", b"LC_ALL": b"C", b"EMPTY": b""}
        for trap in self.traps:
            found.update({os.fsencode(name): os.fsencode(value) for name, value in trap.environment.items()})
        return found

    def sprung(self) -> set[tuple[str, int]]:
        """Which ran, and as whom, since this was last asked."""
        lines = self.marks.read_text().splitlines()
        os.truncate(self.marks, 0)
        return {(line.split()[0], int(line.split()[1])) for line in lines}

    def _python_mark(self, name: str) -> str:
        return f"import os; open({str(self.marks)!r}, 'a').write('{name} %d\\n' % os.geteuid())\n"

    def _sh_mark(self, name: str) -> str:
        ask = "read -r _ _ privbind_uid _ <<E\n`grep Uid: /proc/self/status`\nE\n"
        return f"{ask}echo {name} $privbind_uid >>{self.marks}\n"

    def _file(self, path: Path, text: str, mode: int = 0o644) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def _python_path(self) -> Trap:
        self._file(self.folder / "path/sitecustomize.py", self._python_mark("PYTHONPATH"))
        return Trap("PYTHONPATH", {"PYTHONPATH": str(self.folder / "path")}, [PYTHON, "-c", ""])

    def _working_folder(self) -> Trap:
        for module in SHADOWED:
            self._file(self.work / f"{module}.py", self._python_mark("module"))
        return Trap("module", {}, [PYTHON, "-c", "import struct"])

    def _startup(self) -> Trap:
        script = self._file(self.folder / "startup.py", self._python_mark("PYTHONSTARTUP"))
        return Trap("PYTHONSTARTUP", {"PYTHONSTARTUP": str(script), "PYTHONINSPECT": "1"}, [PYTHON, "-i"])

    def _python_home(self) -> Trap:
        prefix = self.folder / "prefix"
        self._file(prefix / "lib" / self._version / "encodings/__init__.py", self._bare_python_mark("PYTHONHOME"))
        self._file(prefix / "lib" / self._version / "os.py", "")
        return Trap("PYTHONHOME", {"PYTHONHOME": str(prefix)}, [PYTHON, "-c", ""])

    def _bare_python_mark(self, name: str) -> str:
        """For so early that there is no codec yet to open files with."""
        return (
            "import posix\n"
            f"fd = posix.open({str(self.marks)!r}, posix.O_WRONLY | posix.O_APPEND)\n"
            f"posix.write(fd, b'{name} %d\\n' % posix.geteuid())\n"
        )

    def _user_site(self) -> list[Trap]:
        site = self.home / ".local/lib" / self._version / "site-packages"
        self._file(site / "usercustomize.py", self._python_mark("usercustomize"))
        self._file(site / "hostile.pth", self._python_mark("pth"))
        home = {"HOME": str(self.home), "PYTHONUSERBASE": str(self.home / ".local")}
        return [Trap(name, home, [PYTHON, "-c", ""]) for name in ("usercustomize", "pth")]

    def _pth_in_working_folder(self) -> Trap:
        self._file(self.work / "hostile.pth", self._python_mark("pth-here"))
        return Trap("pth-here", {}, [PYTHON, "-I", "-c", "import site; site.addsitedir('.')"])

    def _shells(self) -> list[Trap]:
        files = {name: str(self._file(self.folder / name, self._sh_mark(name))) for name in ("BASH_ENV", "ENV")}
        body = self._sh_mark("function").replace("read ", "builtin read ").replace("echo ", "builtin echo ")
        functions = {f"BASH_FUNC_{name}%%": "() { " + body + "\n}" for name in FUNCTIONS}
        return [
            Trap("BASH_ENV", {"BASH_ENV": files["BASH_ENV"]}, ["bash", "-c", ":"]),
            Trap("ENV", {"ENV": files["ENV"]}, ["sh", "-i", "-c", ":"]),
            Trap("function", functions, ["bash", "-c", "printf x"]),
        ]

    def _programs(self) -> Trap:
        folder = self.folder / "programs"
        for name in PROGRAMS:
            self._file(folder / name, "#!/bin/sh\n" + self._sh_mark("PATH"), 0o755)
            self._file(self.work / name, "#!/bin/sh\n" + self._sh_mark("PATH"), 0o755)
        path = f":{folder}:/usr/sbin:/usr/bin:/sbin:/bin"  # the empty entry is the working folder
        return Trap("PATH", {"PATH": path}, ["/usr/bin/env", "python3"])

    def _libraries(self) -> list[Trap]:
        library = self.folder / "library.so"
        compiler = ["cc", "-shared", "-fPIC", f'-DMARKS="{self.marks}"', "-x", "c", "-", "-o", str(library)]
        subprocess.run(compiler, input=LIBRARY, text=True, check=True)
        return [Trap("library", {name: str(library)}, ["/bin/true"]) for name in ("LD_PRELOAD", "LD_AUDIT")]


NAMES = [
    "PYTHONPATH",
    "module",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "usercustomize",
    "pth",
    "pth-here",
    "BASH_ENV",
    "ENV",
    "function",
    "PATH",
    "library",
]
"""What the traps write."""
