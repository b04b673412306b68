# SPDX-License-Identifier: Apache-2.0
"""diskcopy copies virtual machine disks: sparse, fast, without temporary files."""

__version__ = "0.1.0.dev0"
