"""A Python whose C library is musl: Debian has none, so its own source of Python is compiled with musl-gcc, once."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from deb import CACHE, SUITES
from deb.tree import architecture
from kernels.archive import Archive

from .install import run

SOURCES = ("libffi", "zlib", "python3.11")
_MADE = "1"  # a higher one makes it anew

_COMPILER = """\
#!/bin/sh
# The kernel's headers are the system's. Debian's multiarch folders are for glibc.
case " $* " in
*" --print-multiarch "*) echo "$(uname -m)-linux-musl" ;;
*) exec musl-gcc -isystem "$(dirname "$0")/kernel" "$@" ;;
esac
"""
_BUILD = """
for source in *.orig.tar.*; do tar -xf "$source"; done
mkdir kernel
ln -s /usr/include/linux /usr/include/asm-generic "/usr/include/$(uname -m)-linux-gnu/asm" kernel/
export CC="$PWD/cc" CPPFLAGS="-I$PWD/libraries/include" LDFLAGS="-L$PWD/libraries/lib" PKG_CONFIG=false
export LIBFFI_INCLUDEDIR="$PWD/libraries/include"
libraries=$PWD/libraries
(cd libffi-*/ && ./configure --disable-shared --with-pic --disable-docs --disable-multi-os-directory \
    --prefix="$libraries" && make && make install)
(cd zlib-*/ && CFLAGS=-fPIC ./configure --static --prefix="$libraries" && make && make install)
cd Python-*/
# It would look for what extension modules need in the system's own folders.
sed -i -e 's/^    def add_multiarch_paths(self):/&\\n        return/' \
    -e "s,system_lib_dirs = .*,system_lib_dirs = []," -e "s,system_include_dirs = .*,system_include_dirs = []," setup.py
./configure --prefix="$1" --without-ensurepip --disable-test-modules --with-system-ffi
make -j"$(nproc)"
make install
"""


def python() -> Path:
    """The interpreter; made if there is none."""
    place = CACHE / f"musl-python-{_MADE}"
    program = place / "bin/python3"
    if program.exists():
        return program
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="musl-", dir=CACHE) as name:
        folder = Path(name)
        Archive(SUITES["bookworm"].sources[:1], architecture(), "deb-src").download_source([*SOURCES], folder)
        (folder / "cc").write_text(_COMPILER)
        (folder / "cc").chmod(0o755)
        # Its folder is named in it, so it is made where it will be.
        shutil.rmtree(place, ignore_errors=True)
        try:
            run("sh", "-ec", _BUILD, "sh", place, cwd=folder, changes={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
            os.stat(program)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
    return program
