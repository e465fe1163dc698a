# SPDX-License-Identifier: MIT
"""Placed grants: programs put on a cgroup that exists already, of a running process, service or container."""
