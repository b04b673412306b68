# SPDX-License-Identifier: Apache-2.0
"""paramiko, imported without what it does not need, and silent."""

from __future__ import annotations

import logging
import sys

# invoke, which paramiko takes along for `Match exec` of ssh_config, is two fifths of the import
# (120 of 300 ms). settings.py imports it where such a line is met.
_blocked = "invoke" not in sys.modules
if _blocked:
    sys.modules["invoke"] = None  # type: ignore[assignment]
try:
    import paramiko as paramiko
finally:
    if _blocked:
        del sys.modules["invoke"]

# Without a handler, what it warns of goes to stderr; what failed is in the errors that we raise.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
