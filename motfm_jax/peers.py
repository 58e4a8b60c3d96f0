"""The processes of one run watch over one another.

A collective waits for a process that died, and JAX aborts those that wait only after a minute or
two without heartbeats. So every process holds a connection to process 0: the operating system
closes that of a process that dies, process 0 passes it on, and all stop.

What is said on a connection are whole numbers: the number of a process that ends before its time,
or DONE.
"""

import contextlib
import multiprocessing
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import numpy as np

DONE = -1
GRACE_S = 5.0  # for those that end by an error of their own, which says more
CONNECT_S = 30.0
_HELLO = struct.Struct("!16si")  # the run's token, the process's number
_NUMBER = struct.Struct("!i")


def exit_now(code: int) -> NoReturn:
    """Exits with the data workers, without waiting for threads or JAX's other processes."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


class Peers:
    """This process's connections to the others; `leave` ends them.

    Args:
      number: of this process, from 0.
      count: of processes.
      host: name of process 0's machine; "" where it has to tell itself.
      gather: array -> that of every process, stacked.
    """

    def __init__(
        self, number: int, count: int, host: str, gather: Callable[[np.ndarray], np.ndarray]
    ):
        self._number, self._connections, self._threads = number, {}, []
        self._stopping, self._leaving = threading.Lock(), threading.Event()
        listener = None
        if number == 0:
            both = socket.has_dualstack_ipv6()
            listener = socket.create_server(
                ("", 0),
                family=socket.AF_INET6 if both else socket.AF_INET,
                backlog=count,
                dualstack_ipv6=both,
            )
        port = listener.getsockname()[1] if listener else 0
        host = host or socket.gethostname()
        said = struct.pack("!16sH200s", os.urandom(16), port, host.encode())
        first = gather(np.frombuffer(said, np.uint8))[0].tobytes()
        token, port, host = struct.unpack("!16sH200s", first)
        try:
            if listener:
                self._accept(listener, token, count)
            else:
                address = (host.rstrip(b"\0").decode(), port)
                self._add(0, socket.create_connection(address, CONNECT_S))
                self._connections[0].sendall(_HELLO.pack(token, number))
        except OSError as error:
            print(
                f"WARNING: process {number} has no connection to the others ({error}): the death "
                "of a process will be noticed after a minute or two only",
                file=sys.stderr,
            )
        for peer, connection in self._connections.items():
            thread = threading.Thread(target=self._watch, args=(peer, connection), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _accept(self, listener: socket.socket, token: bytes, count: int) -> None:
        deadline = time.monotonic() + CONNECT_S
        with listener:
            while len(self._connections) < count - 1:
                listener.settimeout(max(deadline - time.monotonic(), 0.01))
                connection = listener.accept()[0]
                connection.settimeout(CONNECT_S)
                hello = connection.recv(_HELLO.size, socket.MSG_WAITALL)
                if len(hello) == _HELLO.size and hello.startswith(token):
                    self._add(_HELLO.unpack(hello)[1], connection)
                else:  # a stranger
                    connection.close()

    def _add(self, peer: int, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):  # a machine that is gone: noticed after 40 s
            for option, value in (("IDLE", 20), ("INTVL", 5), ("CNT", 4)):
                connection.setsockopt(
                    socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{option}"), value
                )
        self._connections[peer] = connection

    def _watch(self, peer: int, connection: socket.socket) -> None:
        try:
            said = connection.recv(_NUMBER.size, socket.MSG_WAITALL)
        except OSError:
            said = b""
        if len(said) == _NUMBER.size:
            (ended,) = _NUMBER.unpack(said)
            if ended != DONE:
                self._stop(ended, GRACE_S)
        elif self._number == 0:
            self._tell(peer)
            # The last to go: with process 0 JAX's service ends, and others would be aborted.
            self._stop(peer, GRACE_S + 1)
        else:
            self._stop(peer, 0)  # before JAX aborts us

    def _stop(self, ended: int, grace_s: float) -> None:
        """Ends this process unless it ends by itself meanwhile."""
        if not self._stopping.acquire(blocking=False) or self._leaving.wait(grace_s):
            return
        line = (
            f"error: process {ended} of this run ended before its time (its own output says why), "
            f"so process {self._number} stops; start all of them again with --resume\n"
        )
        # Past Python's streams: the main thread may hold them for ever.
        os.write(2, line.encode())
        exit_now(os.EX_TEMPFAIL)

    def _tell(self, number: int) -> None:
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(_NUMBER.pack(number))

    def leave(self, done: bool) -> None:
        """Tells the others that this process's work is done, or that it ends without.

        In the second case they stop; process 0 waits for that.
        """
        self._leaving.set()
        if done:
            self._tell(DONE)
            return
        if self._number == 0:
            self._tell(0)
            deadline = time.monotonic() + GRACE_S + 1
            for thread in self._threads:
                thread.join(max(deadline - time.monotonic(), 0))
