# SPDX-License-Identifier: MIT
"""Makes boot.py part of a launcher.

    embed.py header [MODULE]        a C header that defines BOOT, for launcher.c
    embed.py sh [SOURCE [MODULE]]   the launcher in sh, where nothing can be compiled

SOURCE is the folder of an editable install's package; MODULE is what has start(), the privbind
command's unless given.
"""

import ast
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULE = "privbind.commands.privbind"
PROGRAMS = {
    MODULE: "privbind",
    "privbind.commands.privbindctl": "privbindctl",
    "privbind.commands.oci_hook": "privbind-oci-hook",
}
"""What each module's command is called, in the launcher's own errors."""


def boot(module: str = MODULE) -> str:
    """boot.py without comments, in its shortest form: it is seen in the process list."""
    text = (HERE / "boot.py").read_text("utf-8")
    for name, value in (
        ("MODULE", module),
        ("PACKAGE", module.partition(".")[0]),
        ("PROGRAM", PROGRAMS.get(module, module)),
    ):
        text = text.replace(name, value)
    return ast.unparse(ast.parse(text)) + "\n"


def c_header(module: str = MODULE) -> str:
    """The text as one C string, and the command's name as another."""
    lines = []
    for line in boot(module).splitlines():
        quoted = line.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'    "{quoted}\\n"')
    program = f'#define PROGRAM "{PROGRAMS.get(module, module)}"\n'
    return "// Made from boot.py by embed.py.\n" + program + "#define BOOT \\\n" + " \\\n".join(lines) + "\n"


def sh_script(source: str = "", module: str = MODULE) -> str:
    """The sh launcher; both texts go inside single quotes."""
    script = (HERE / "privbind.sh.in").read_text("utf-8")
    for name, text in (("@BOOT@", boot(module)), ("@SOURCE@", source)):
        script = script.replace(name, text.replace("'", "'\\''"))
    return script


def main() -> int:
    """Prints what the command line names."""
    match sys.argv[1:]:
        case ["header", *rest] if len(rest) <= 1:
            sys.stdout.write(c_header(*rest))
        case ["sh", *rest] if len(rest) <= 2:
            sys.stdout.write(sh_script(*rest))
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
