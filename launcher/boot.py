# SPDX-License-Identifier: MIT
# What `python3 -I -S -c` runs: finds the package from the launcher's own place and hands over. Nothing is taken from
# the environment or the working directory. The folders come last, so that no file in them can stand in front of the
# standard library. The build replaces MODULE, PACKAGE and PROGRAM and drops comments.
import sys

place = sys.argv[1]
if place[:4] == "src:":
    sys.path.append(place[4:])
else:
    lib = "/lib/python%d.%d" % sys.version_info[:2] + ("t" if "t" in sys.abiflags else "")
    sys.path += [
        place + "/.." + folder
        for folder in (
            lib + "/site-packages",
            lib.replace("/lib", "/lib64", 1) + "/site-packages",
            lib + "/dist-packages",
            "/local" + lib + "/dist-packages",
            "/lib/python3/dist-packages",
        )
    ]
try:
    from MODULE import start
except ImportError as error:
    name = error.name or str(error)
    if name.partition(".")[0] == "PACKAGE":
        why = "the package is not installed for %s near %s; reinstall it with that interpreter" % (
            sys.executable,
            place,
        )
    else:
        why = "%s lacks %s of Python's standard library (install all of it; Debian: apt install python3)" % (
            sys.executable,
            name,
        )
    sys.stderr.write("PROGRAM: " + why + "\n")
    sys.exit(125)
start(sys.argv[2], sys.argv[3], sys.argv[4:])
