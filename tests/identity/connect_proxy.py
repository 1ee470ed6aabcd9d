"""A small, real HTTP CONNECT proxy that counts what goes through it."""

from __future__ import annotations

import contextlib
import socket
import threading


class ConnectProxy:
    """Listens on the loopback until closed. ``asked``: every CONNECT line's target."""

    def __init__(self, password: str = "") -> None:
        self.asked: list[str] = []
        self.credentials: list[str] = []
        self._password = password
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = client.recv(4096)
            if not chunk:
                return
            head += chunk
        lines = head.decode("latin-1").split("\r\n")
        target = lines[0].split()[1]
        self.asked.append(target)
        self.credentials += [line for line in lines if line.lower().startswith("proxy-auth")]
        host, _, port = target.rpartition(":")
        with contextlib.closing(socket.create_connection((host, int(port)))) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join(1)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
