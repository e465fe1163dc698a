# SPDX-License-Identifier: MIT
"""The commands: argv in, text out. Nothing else prints or exits."""
