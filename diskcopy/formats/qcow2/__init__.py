# SPDX-License-Identifier: Apache-2.0
"""qcow2: QEMU's format, in which a disk's clusters are found through tables."""
