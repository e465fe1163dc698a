# SPDX-License-Identifier: MIT
"""The helper: the process that binds on the command's behalf. It knows nothing of the command line."""
