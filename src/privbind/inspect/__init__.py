# SPDX-License-Identifier: MIT
"""What is there: what this host offers, and the grants that are in force on it."""
