# SPDX-License-Identifier: MIT
"""What a grant is: what is granted, whose it is, where it holds, and how one bind is decided. Pure."""
