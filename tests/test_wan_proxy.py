# SPDX-License-Identifier: Apache-2.0
"""The long thin link of the tests delays, paces, counts and breaks as it says."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from wan_proxy import Counted, WanProxy, parse_rate, parse_time


@pytest.fixture
def echo() -> Iterator[int]:
    """A port where all that is sent comes back, and the end of it too."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                with link:
                    try:
                        while data := link.recv(1 << 20):
                            link.sendall(data)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def exchange(port: int, data: bytes) -> bytes:
    """Send `data` and its end, and receive all that comes back."""
    with socket.create_connection(("127.0.0.1", port)) as link:
        writer = threading.Thread(target=lambda: (link.sendall(data), link.shutdown(socket.SHUT_WR)))
        writer.start()
        parts = []
        while part := link.recv(1 << 20):
            parts.append(part)
        writer.join()
    return b"".join(parts)


def test_bytes_arrive_and_are_counted(echo: int) -> None:
    data = os.urandom(3_000_001)
    with WanProxy(echo, rtt=0.01) as proxy:
        assert proxy.count() == Counted(0, 0)
        assert exchange(proxy.port, data) == data
        assert proxy.count() == Counted(len(data), len(data))


def test_a_round_trip_takes_as_long_as_it_should(echo: int) -> None:
    with WanProxy(echo, rtt=0.1) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as link:
        for _ in range(3):
            began = time.monotonic()
            link.sendall(b"x")
            assert link.recv(1) == b"x"
            assert 0.1 <= time.monotonic() - began < 0.15


def test_the_rate_holds(echo: int) -> None:
    data = bytes(5_000_000)
    with WanProxy(echo, rate=80e6) as proxy:
        began = time.monotonic()
        assert exchange(proxy.port, data) == data
        assert 0.5 <= time.monotonic() - began < 0.8


def test_connections_are_reset_after_so_many_bytes(echo: int) -> None:
    with WanProxy(echo, drop_after=1_000_000) as proxy:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", proxy.port)) as link:
                received = 0
                with pytest.raises(ConnectionError):  # noqa: PT012
                    while True:
                        link.sendall(bytes(10_000))
                        received += len(link.recv(1 << 20))
                assert received < 600_000
        assert exchange(proxy.port, b"small") == b"small"


def test_connections_are_reset_on_demand(echo: int) -> None:
    with WanProxy(echo) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as link:
        link.sendall(b"x")
        assert link.recv(1) == b"x"
        proxy.drop()
        with pytest.raises(ConnectionResetError):
            link.recv(1)


def test_words_for_rates_and_times() -> None:
    assert [parse_rate(text) for text in ("1000M", "1.5G", "7")] == [1e9, 1.5e9, 7]
    assert [parse_time(text) for text in ("20ms", "1.5s", "2")] == [0.02, 1.5, 2]
