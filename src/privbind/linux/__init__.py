# SPDX-License-Identifier: MIT
"""The kernel's interfaces: the only place with system call numbers, constants and foreign function calls."""
