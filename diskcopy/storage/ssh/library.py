# SPDX-License-Identifier: Apache-2.0
"""paramiko, imported without what it does not need, and silent."""

from __future__ import annotations

import gc
import logging
import sys

# invoke, which paramiko takes along for `Match exec` of ssh_config, is two fifths of the import
# (120 of 300 ms). settings.py imports it where such a line is met.
_blocked = "invoke" not in sys.modules
if _blocked:
    sys.modules["invoke"] = None  # type: ignore[assignment]
# Some 500 modules leave no garbage, and looking for it is a tenth of the rest.
_collecting = gc.isenabled()
gc.disable()
try:
    import paramiko as paramiko
finally:
    if _collecting:
        gc.enable()
    if _blocked:
        del sys.modules["invoke"]

# Without a handler, what it warns of goes to stderr; what failed is in the errors that we raise.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
