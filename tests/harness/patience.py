"""How slow this machine is: PRIVBIND_TEST_PATIENCE says by how much time limits are longer than on an ordinary one."""

from __future__ import annotations

import os

PATIENCE = float(os.environ.get("PRIVBIND_TEST_PATIENCE", "1"))
