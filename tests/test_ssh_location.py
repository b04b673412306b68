# SPDX-License-Identifier: Apache-2.0
"""An SSH address is read as it was meant, written so that it reads the same, or refused in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskcopy.errors import UsageError
from diskcopy.storage.ssh.location import Location


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("ssh://kool/mnt/disk.img", Location("kool", "/mnt/disk.img")),
        ("ssh://rich@kool:2222/a/b", Location("kool", "/a/b", "rich", 2222)),
        ("ssh://kool:/a", Location("kool", "/a")),
        ("ssh://[::1]:22/a", Location("::1", "/a", None, 22)),
        ("ssh://[fe80::1%25eth0]/a", Location("fe80::1%eth0", "/a")),
        ("ssh://kool//etc/passwd", Location("kool", "//etc/passwd")),
        ("ssh://kool/a b'\"\n$(id)#1", Location("kool", "/a b'\"\n$(id)#1")),
        ("ssh://kool/a%20b%3F%23%25%2520", Location("kool", "/a b?#%%20")),
        ("ssh://kool/%e6%bc%a2%ff", Location("kool", "/漢\udcff")),
        ("ssh://kool/漢\udcff", Location("kool", "/漢\udcff")),
        ("ssh://DOM%5Crich%40corp@kool/a", Location("kool", "/a", "DOM\\rich@corp")),
        ("ssh://kool/a?host_key_check=no", Location("kool", "/a")),
        ("ssh://kool/a?host_key_check=md5:00:11", Location("kool", "/a")),
        ("ssh://kool/%7E/a", Location("kool", "/~/a")),
    ],
)
def test_addresses_are_taken_apart(text: str, location: Location) -> None:
    assert Location.parse(text) == location
    assert Location.parse(str(location)) == location


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://kool/a", r"is no SSH address; write ssh://\[user@\]host"),
        ("ssh:///a", "names no host"),
        ("ssh://rich@/a", "names no host"),
        ("ssh://kool", "names no file"),
        ("ssh://kool/", "names no file"),
        ("ssh://kool:0/a", "0 is no port"),
        ("ssh://kool:65536/a", "65536 is no port"),
        ("ssh://kool:ssh/a", "ssh is no port"),
        ("ssh://2001:db8::1/a", "IPv6 address stands in brackets"),
        ("ssh://[kool]/a", "is no IPv6 address"),
        ("ssh://kool/a%", "write a % as %25"),
        ("ssh://kool/100%.img", "write a % as %25"),
        ("ssh://kool/a?b", r"write a \? of a path as %3F"),
        ("ssh://kool/a?", r"write a \? of a path as %3F"),
        ("ssh://kool/a?host_key_check=no&port=1", r"write a \? of a path as %3F"),
        ("ssh://kool/a%00b", "no path holds a NUL"),
        ("ssh://kool/~/a", "~ is no folder"),
        ("ssh://kool/~rich/a", "~ is no folder"),
        ("ssh://-oProxyCommand=id/a", "is no name of a host"),
        ("ssh://kool;id/a", "is no name of a host"),
        ("ssh://$(id)@kool/a", "is no name of a user"),
        ("ssh://-l@kool/a", "is no name of a user"),
        ("ssh://%ff@kool/a", "is no name of a user"),
        ("ssh://kool/" + 40000 * "a", "too long"),
    ],
)
def test_what_is_no_address_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Location.parse(text)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="a password in an address") as failure:
        Location.parse("ssh://rich:hunter2@kool/a")
    assert "hunter2" not in str(failure.value)


NAMES = st.binary(min_size=1, max_size=40).map(
    lambda raw: raw.replace(b"\0", b"a").decode("utf-8", "surrogateescape")
)


@given(
    NAMES,
    st.none() | st.sampled_from(["rich", "a@b", "D\\x", "a/b", "a:b", "é"]),
    st.none() | st.integers(1, 65535),
)
def test_every_path_survives_being_written_and_read(name: str, user: str | None, port: int | None) -> None:
    location = Location("kool", f"/x{name}", user, port)
    assert Location.parse(str(location)) == location
    assert str(location).isascii()
    assert not set(str(location)) & set(" ,?#'\"\n\\")


def test_a_named_image_lies_beside_the_one_that_names_it() -> None:
    image = Location("kool", "/var/lib/snapshot.qcow2", "rich", 2222)
    assert image.join("base?.img") == image._replace(path="/var/lib/base?.img")
    assert image.join("../base.img") == image._replace(path="/var/lib/../base.img")
    assert image.join("/srv/base.img") == image._replace(path="/srv/base.img")
