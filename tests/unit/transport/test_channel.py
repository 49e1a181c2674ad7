"""Connections to a client."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from meshlog_handler.errors import ConnectError, SettingError
from meshlog_handler.protocol.messages import Goodbye, Hello
from meshlog_handler.transport import channel
from meshlog_handler.transport.channel import Address, Link, connect


def test_without_a_free_descriptor_the_client_cannot_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an `OSError`: who looks for a client patiently tries again."""

    def no_socket(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socket", no_socket)
    with pytest.raises(ConnectError, match="Too many open files"):
        connect(Address("/none/client.sock", bytes(32)), Hello(1, "here", None, None, "", (), True, 0.0), ())


def test_an_invalid_address_of_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLOG_ADDRESS", "nonsense")
    for text, words in (
        ("nonsense", "^MESHLOG_ADDRESS is not a valid client address"),
        ("other", "^not a valid client address"),
    ):
        with pytest.raises(SettingError, match=words):
            Address.parse(text)


@pytest.mark.parametrize("path", ["/tmp/job#12/client.sock", "/tmp/#/c#", "/tmp/a b%?/client.sock", "/tmp/\udcff/client.sock"])
def test_the_path_of_an_address_may_contain_any_character(path: str) -> None:
    address = Address(path, bytes(32))
    assert Address.parse(str(address)) == address


def test_a_client_that_does_not_answer_in_time_is_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "HANDSHAKE_SEC", 0.05)
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(path)
        silent.listen()
        with pytest.raises(ConnectError, match=r"failed: no answer in time\. Check"):
            connect(Address(path, bytes(32)), Hello(1, "here", None, None, "", (), True, 0.0), ())


def test_another_thread_may_close_the_connection_before_the_last_message() -> None:
    """The number of a closed socket is -1, which `poll` does not accept: that is no other error than a lost connection."""
    ours, theirs = socket.socketpair()

    class Closing(Link):
        def _check_intact(self) -> None:
            super()._check_intact()
            self.forget()

    with theirs:
        link = Closing(ours)
        link.send_last(Goodbye(), 10.0)
        assert theirs.recv(1) == b""
        with pytest.raises(OSError, match="Bad file descriptor"):
            link.receive(10.0)
