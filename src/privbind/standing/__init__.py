# SPDX-License-Identifier: MIT
"""Standing grants: what the administrator's files say, and who that means."""
