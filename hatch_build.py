# SPDX-License-Identifier: MIT
"""Build hook: compiles the shim and the launcher, puts them into the wheel and tags it.

Neither is an extension module, so one wheel serves every Python from 3.11 on the same architecture:
py3-none-linux_ARCH. PRIVBIND_PLATFORM=manylinux_2_17, for example, takes the place of "linux": what is compiled needs
no C library of its own, so the caller decides which one the wheel is tagged for (tools/dist.py does). Where nothing can
be compiled the wheel has the sh launcher and no shim, and is py3-none-any.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Each is a launcher of its module's start().
_PROGRAMS = {
    "privbind": "privbind.commands.privbind",
    "privbindctl": "privbind.commands.privbindctl",
    "privbind-oci-hook": "privbind.commands.oci_hook",
}
_LAUNCHER = "privbind"  # as launcher/Makefile names it, whatever it starts
_SHIM = "libprivbind.so"
_PLACE_IN_PACKAGE = f"privbind/_preload/{_SHIM}"  # where privbind.mechanisms.preload looks


class CannotCompileError(Exception):
    """What is missing, or what the compiler said."""


class PrivbindHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the compiled parts to the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build what the wheel needs; hatchling calls it before it collects the files."""
        self._made: Path | None = None
        if self.target_name != "wheel":
            return
        self._made = made = Path(tempfile.mkdtemp(prefix="privbind-build-"))
        editable = version == "editable"
        source = str(Path(self.root, "src")) if editable else ""
        try:
            shim = self._compile(made, source)
            build_data["tag"] = f"py3-none-{os.environ.get('PRIVBIND_PLATFORM') or 'linux'}_{_architecture()}"
            build_data["pure_python"] = False
        except CannotCompileError as error:
            if os.environ.get("PRIVBIND_REQUIRE_COMPILER"):
                raise
            self.app.display_warning(f"privbind: no shim is built, so preload will not be there: {error}")
            shim = None
            build_data["tag"] = "py3-none-any"
            for name, module in _PROGRAMS.items():
                self._write_sh_launcher(made / name / _LAUNCHER, source, module)
        self._place_shim(shim, build_data, editable=editable)
        for name in _PROGRAMS:
            build_data["shared_scripts"][str(made / name / _LAUNCHER)] = name

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what was built; hatchling calls it when the wheel is there."""
        if self._made is not None:
            shutil.rmtree(self._made)

    def _compile(self, out: Path, source: str) -> Path:
        """Build the shim and the launchers into ``out`` and return the shim. Raises CannotCompileError."""
        make = shutil.which("make")
        if make is None:
            raise CannotCompileError("make is missing")
        if shutil.which(_compiler()[0]) is None:
            raise CannotCompileError(f"the C compiler {_compiler()[0]} is missing")
        self._run(make, "-C", "preload", "all", f"OUT={out}")
        python = shlex.quote(sys.executable).replace("$", "$$")  # it becomes part of a recipe
        variables = [f"BUILD_PYTHON={python}", f"SOURCE={source}"]
        for name, module in _PROGRAMS.items():
            self._run(make, "-C", "launcher", "all", f"OUT={out / name}", f"MODULE={module}", *variables)
        return out / _SHIM

    def _run(self, *command: str) -> None:
        # Not the variables of a make that runs this build: its job server is not for us.
        kept = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
        done = subprocess.run(
            command, cwd=self.root, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise CannotCompileError(f"{shlex.join(command)} failed:\n{done.stdout}")

    def _write_sh_launcher(self, path: Path, source: str, module: str) -> None:
        embed = [sys.executable, str(Path(self.root, "launcher", "embed.py")), "sh", source, module]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(subprocess.run(embed, stdout=subprocess.PIPE, check=True).stdout)
        path.chmod(0o755)

    def _place_shim(self, shim: Path | None, build_data: dict[str, Any], *, editable: bool) -> None:
        if not editable:
            if shim is not None:
                build_data["force_include"][str(shim)] = _PLACE_IN_PACKAGE
            return
        place = Path(self.root, "src", _PLACE_IN_PACKAGE)
        place.unlink(missing_ok=True)
        if shim is not None:
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(shim, place)


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def _architecture() -> str:
    """The architecture that the compiler compiles for, which is not this machine's when it is a cross compiler."""
    machine = subprocess.run([*_compiler(), "-dumpmachine"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return machine.partition("-")[0]
