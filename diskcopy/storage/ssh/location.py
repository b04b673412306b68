# SPDX-License-Identifier: Apache-2.0
"""ssh://[user@]host[:port]/absolute/path: what a person types, taken apart and put together."""

from __future__ import annotations

from typing import NamedTuple


class Location(NamedTuple):
    """A file on a host.

    host: as typed, which may be an alias of the user's ssh_config
    path: absolute, decoded; bytes that are not UTF-8 as surrogate escapes
    user, port: None where they were not given
    """

    host: str
    path: str
    user: str | None = None
    port: int | None = None
