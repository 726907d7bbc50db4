"""Ranks notice when another one ends, wherever they are in their work, and end too instead of waiting for it.

Every rank keeps a connection to rank 0. When a process ends, however it ends, the kernel closes its connections;
when a machine is gone, TCP's keep-alive finds out. So a rank that is merely slow is never taken for a dead one.
"""

import contextlib
import os
import secrets
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from aindex.errors import AindexError, ConfigError

_GRACE_S = 8.0
"""A rank that failed has said why; the others mostly fail for the same reason within this time, and say so."""
_NEWS_S = 5.0
"""How long a rank waits for news when a collective call fails: that another rank ended is the usual reason."""
_ACCEPT_S = 120.0
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
_DONE, _FAILED, _LOST = b"d", b"f", b"l"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HELLO = struct.Struct("!16si64s")


class Place(NamedTuple):
    """A process of a run: its number among all and on its machine, and its machine's number."""

    rank: int
    ranks: int
    local_rank: int
    node_rank: int


class Watch:
    """Ends this process when another rank ends before it is done.

    Rank 0 is on the machine of that address; `share` gives its value to all ranks and is collective.
    """

    def __init__(self, place: Place, address: str, share: Callable[[Any], Any]) -> None:
        self._place = place
        self._peers: dict[int, socket.socket] = {}
        self._machines = {0: address}
        self._lost = threading.Event()
        self._is_leaving = False
        try:
            self._connect(address, share)
        except OSError as error:
            raise ConfigError(
                f"rank {place.rank} of {place.ranks} has no connection to rank 0 on {address!r} ({error}): expected "
                "that the machines reach each other's ports; see that MASTER_ADDR and the firewall allow it"
            ) from error
        self._thread = threading.Thread(target=self._watch, name="rank-watch", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Say that this rank is done; it may end from now on."""
        if not self._is_leaving:
            self._is_leaving = True
            self._tell(_DONE)

    def failed(self, error: BaseException) -> None:
        """Say that this rank failed.

        Where the reason is that another rank has ended this does not return: the process ends with a line that
        says so, instead of with what the broken connection looked like from here.
        """
        if not isinstance(error, AindexError | KeyboardInterrupt) and self._lost.wait(_NEWS_S):
            time.sleep(2 * _GRACE_S)
        if not self._is_leaving:
            self._is_leaving = True
            self._tell(_FAILED + (" ".join(str(error).split()) or type(error).__name__).encode()[:2000])

    def _connect(self, address: str, share: Callable[[Any], Any]) -> None:
        if self._place.rank == 0:
            self._listen(address, share)
            return
        port, token, self._machines[0] = share(None)
        peer = socket.create_connection((address, port), timeout=_ACCEPT_S)
        peer.sendall(_HELLO.pack(token, self._place.rank, socket.gethostname().encode()[:64]))
        self._peers[0] = _kept_alive(peer)

    def _listen(self, address: str, share: Callable[[Any], Any]) -> None:
        token = secrets.token_bytes(16)
        family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as server:
            # a machine's own name can mean another interface to itself than to the others
            server.bind((address if address in _LOOPBACK else "", 0))
            server.listen(self._place.ranks)
            share((server.getsockname()[1], token, socket.gethostname()))
            server.settimeout(_ACCEPT_S)
            while len(self._peers) < self._place.ranks - 1:
                peer, _ = server.accept()
                peer.settimeout(_ACCEPT_S)
                with contextlib.suppress(OSError, struct.error):
                    found, rank, machine = _HELLO.unpack(_read(peer, _HELLO.size))
                    if secrets.compare_digest(found, token):
                        self._peers[rank] = _kept_alive(peer)
                        self._machines[rank] = machine.rstrip(b"\0").decode(errors="replace")

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, peer in self._peers.items():
                selector.register(peer, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    selector.unregister(key.fileobj)
                    self._heard(key.data, _read_all(key.fileobj))  # type: ignore[arg-type]

    def _heard(self, rank: int, message: bytes) -> None:
        kind, text = message[:1], message[1:].decode(errors="replace")
        if kind == _DONE or self._is_leaving:
            return
        self._lost.set()
        if kind == _FAILED:
            time.sleep(_GRACE_S)
        if self._is_leaving:
            return
        if kind == _LOST:
            machine, _, text = text.partition("\0")
        else:
            machine = self._machines[rank]
            what = f"failed ({text})" if kind == _FAILED else "ended before it was done"
            text = (
                f"rank {rank} of {self._place.ranks} on {machine!r} {what}: the other ranks end too; the same command "
                "continues"
            )
            self._tell(_LOST + f"{machine}\0{text}".encode())
        _end_process(text if self._speaks(rank, kind, machine) else "")

    def _speaks(self, rank: int, kind: bytes, machine: str) -> bool:
        """One process per machine; none on the machine where the one that failed has spoken itself."""
        if kind == _FAILED and machine == socket.gethostname():
            return False
        zero_is_gone = rank == 0 and kind != _LOST and self._place.node_rank == 0
        return self._place.local_rank == (1 if zero_is_gone else 0)

    def _tell(self, message: bytes) -> None:
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.sendall(message)
                peer.shutdown(socket.SHUT_WR)


def _kept_alive(peer: socket.socket) -> socket.socket:
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return peer


def _read(peer: socket.socket, size: int) -> bytes:
    """So many bytes, or what there is before the end."""
    found = b""
    while len(found) < size and (part := peer.recv(size - len(found))):
        found += part
    return found


def _read_all(peer: socket.socket) -> bytes:
    """What a rank said before it closed its side; nothing if it was killed."""
    parts = []
    with contextlib.suppress(OSError):
        while part := peer.recv(4096):
            parts.append(part)
    return b"".join(parts)


def _end_process(text: str) -> None:
    """End at once, without the cleaning up that would wait for the others; what is finished is on the disk."""
    try:
        if text:
            print(f"aindex: error: {text}", file=sys.stderr, flush=True)
    finally:
        # also where the reason was a full disk, on which the log lies
        os._exit(1)
