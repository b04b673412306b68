# SPDX-License-Identifier: Apache-2.0
"""A far side with Python: `program.py` is sent there and run, `far.py` talks to it."""
