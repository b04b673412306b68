# SPDX-License-Identifier: Apache-2.0
"""`python -m diskcopy` is the command `diskcopy`."""

import sys

from diskcopy.cli import main

if __name__ == "__main__":
    sys.exit(main())
