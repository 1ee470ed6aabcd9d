"""Blobs over HTTP Range: a real server, and servers that do not do what they should."""

from __future__ import annotations

import contextlib
import gzip
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from edge_agent.config import TransferSection
from edge_agent.errors import AgentError
from edge_agent.transfer.http_source import HttpBlock, HttpFailed, HttpSource
from edge_agent.transfer.patience import Patience
from edge_agent.transfer.pull import BlobPuller
from edge_contract.digest import digest_of, hex_of
from edge_contract.errors import ContractError
from edge_contract.manifest import WEIGHT, Descriptor
from edge_contract.messages import BlobAsk
from fleet.clock import SystemClock
from fleet.errors import FleetError
from fleet.manager.http_server import HttpServer
from fleet.transfer import http_guard
from fleet.transfer.http_blobs import bind_blobs, build_blob_app
from fleet.transfer.http_guard import CONNECTIONS_MAX, GuardedProtocol
from fleet.transfer.total_rate import TotalRate

DATA = os.urandom(700_001)
DIGEST = digest_of(DATA)


@pytest.fixture
def rate() -> TotalRate:
    return TotalRate(0.0)


@pytest.fixture
def server(tmp_path: Path, rate: TotalRate) -> Iterator[str]:
    (tmp_path / "blob").write_bytes(DATA)

    def path_of(digest: str) -> Path:
        if digest != DIGEST:
            raise FleetError("no such blob")
        return tmp_path / "blob"

    app = build_blob_app(path_of, rate, SystemClock())
    http = HttpServer(app, bind_blobs("127.0.0.1:0"), GuardedProtocol)
    http.start()
    yield http.url
    http.stop()


def pull(
    base: str, state_dir: Path, *, size: int = len(DATA), timeout_s: float = 10.0
) -> tuple[str, BlobPuller]:
    """Pull ``DATA`` through the agent's own puller; returns the reason for a failure or ""."""
    events: queue.Queue[HttpBlock | HttpFailed] = queue.Queue()
    source = HttpSource(base, events.put, time.monotonic, timeout_s=timeout_s)
    ended: list[str] = []
    puller = BlobPuller(state_dir, source.ask, ended.append)
    puller.want([Descriptor(media_type=WEIGHT, digest=DIGEST, size=size)], 0.0)
    now_s = 0.0
    while not ended:
        event = events.get(timeout=10)
        now_s += 0.01
        if isinstance(event, HttpFailed):
            ended.append(event.reason)
        else:
            puller.block(event.block, now_s)
    source.stop()
    return ended[0], puller


def test_a_blob_comes_over_http_and_only_once(server: str, tmp_path: Path) -> None:
    reason, puller = pull(server, tmp_path / "state")
    assert reason == ""
    assert puller.blob(DIGEST).read_bytes() == DATA
    assert puller.progress.received_bytes == len(DATA)


def test_strangers_who_sit_on_connections_cost_no_more_than_their_share(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_guard, "REST_S", 0.5)
    host, _, port = server.removeprefix("http://").partition(":")
    before_count = len(list(Path("/proc/self/fd").iterdir()))
    ask = f"GET /{hex_of(DIGEST)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for number in range(CONNECTIONS_MAX + 100):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            if number % 3:  # a third says nothing, a third half a request, a third takes nothing
                client.sendall(ask if number % 3 == 1 else ask[:20])
        time.sleep(0.3)
        own_count = (
            len(list(Path("/proc/self/fd").iterdir())) - before_count - CONNECTIONS_MAX - 100
        )
        assert own_count <= 2 * CONNECTIONS_MAX
        # They are still there, and the others are served.
        until_s = time.monotonic() + 10
        reason = "never asked"
        while reason and time.monotonic() < until_s:
            time.sleep(0.5)
            reason, puller = pull(server, tmp_path / "state")
        assert reason == ""
        assert puller.blob(DIGEST).read_bytes() == DATA


@pytest.mark.parametrize("rate", [TotalRate(1e6, 200_000)])
def test_what_all_may_pull_together_holds_over_http_and_for_those_who_stay(
    server: str, rate: TotalRate
) -> None:
    url = f"{server}/{hex_of(DIGEST)}"
    began_s = time.monotonic()
    for _ in range(3):  # asked for, and left: nothing of that is taken from the others
        host, _, port = server.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as left:
            left.sendall(f"GET /{hex_of(DIGEST)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            left.recv(1000)
    with ThreadPoolExecutor(2) as pool:
        bodies = list(pool.map(lambda _: httpx.get(url, trust_env=False).content, range(2)))
    took_s = time.monotonic() - began_s
    assert bodies == [DATA, DATA]
    least_s = (2 * len(DATA) - 200_000) / 1e6
    assert least_s <= took_s < least_s + 1.5


def test_unknown_names_are_not_found(server: str, tmp_path: Path) -> None:
    import httpx

    for name in ("0" * 64, "..%2f..%2fkeys", "x", hex_of(DIGEST)[:-1], "%00"):
        assert httpx.get(f"{server}/{name}", trust_env=False).status_code == 404
    part = httpx.get(f"{server}/{hex_of(DIGEST)}", headers={"range": "bytes=5-9"}, trust_env=False)
    assert (part.status_code, part.content) == (206, DATA[5:10])


Answer = Callable[[BaseHTTPRequestHandler], None]


def bad(answer: Answer) -> tuple[ThreadingHTTPServer, str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    return http, f"http://127.0.0.1:{http.server_address[1]}/cdn"


def not_found(request: BaseHTTPRequestHandler) -> None:
    request.send_error(404)


def whole_instead_of_a_range(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(DATA)))
    request.end_headers()
    request.wfile.write(DATA[:1000])


def another_range(request: BaseHTTPRequestHandler) -> None:
    request.send_response(206)
    request.send_header("Content-Range", f"bytes 4096-8191/{len(DATA)}")
    request.send_header("Content-Length", "4096")
    request.end_headers()


def cut_short(request: BaseHTTPRequestHandler) -> None:
    request.send_response(206)
    request.send_header("Content-Range", f"bytes 0-65535/{len(DATA)}")
    request.send_header("Content-Length", "65536")
    request.end_headers()
    request.wfile.write(DATA[:5000])
    request.wfile.flush()
    request.connection.shutdown(socket.SHUT_RDWR)


def length_that_is_no_number(request: BaseHTTPRequestHandler) -> None:
    request.send_response(206)
    request.send_header("Content-Range", f"bytes 0-65535/{len(DATA)}")
    request.send_header("Content-Length", "plenty")
    request.end_headers()


def range_of_ten_thousand_digits(request: BaseHTTPRequestHandler) -> None:
    request.send_response(206)
    request.send_header("Content-Range", f"bytes 0-65535/{'9' * 10_000}")
    request.send_header("Content-Length", "65536")
    request.end_headers()


def compressed(request: BaseHTTPRequestHandler) -> None:
    first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
    length = int(last) + 1 - int(first)
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {first}-{last}/{len(DATA)}")
    request.send_header("Content-Encoding", "gzip")
    request.send_header("Content-Length", str(length))
    request.end_headers()
    request.wfile.write(gzip.compress(DATA)[:length])


def elsewhere(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", "http://169.254.169.254/latest/meta-data")
    request.send_header("Content-Length", "0")
    request.end_headers()


def answers_before_the_answer(request: BaseHTTPRequestHandler) -> None:
    with contextlib.suppress(OSError):
        while True:
            request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def a_body_without_an_end(request: BaseHTTPRequestHandler) -> None:
    first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {first}-{last}/{len(DATA)}")
    request.send_header("Content-Length", str(int(last) + 1 - int(first)))
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    with contextlib.suppress(OSError):
        while True:
            request.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        not_found,
        elsewhere,
        answers_before_the_answer,
        a_body_without_an_end,
        whole_instead_of_a_range,
        another_range,
        cut_short,
        length_that_is_no_number,
        range_of_ten_thousand_digits,
    ],
)
def test_a_server_that_answers_wrongly_is_left_for_mqtt(answer: Answer, tmp_path: Path) -> None:
    http, url = bad(answer)
    reason, puller = pull(url, tmp_path)
    http.shutdown()
    assert "127.0.0.1" in reason
    assert not puller.blob(DIGEST).exists()


def test_a_server_that_compresses_is_left_before_a_byte_of_it_counts(tmp_path: Path) -> None:
    http, url = bad(compressed)
    reason, puller = pull(url, tmp_path)
    http.shutdown()
    assert "got them as 'gzip'" in reason
    assert puller.progress.received_bytes == 0


def test_what_a_bad_server_costs_is_counted(tmp_path: Path) -> None:
    http, url = bad(answers_before_the_answer)
    events: queue.Queue[HttpBlock | HttpFailed] = queue.Queue()
    source = HttpSource(url, events.put, time.monotonic)
    source.ask(BlobAsk(digest=DIGEST, block_bytes=65536, missing=[(0, 0)]))
    failed = events.get(timeout=10)
    source.stop()
    http.shutdown()
    assert isinstance(failed, HttpFailed)
    assert "more than it was asked for" in failed.reason
    assert 2 * 65536 < failed.wire_bytes < 3 * 65536


def test_every_byte_of_a_good_server_is_counted_once(server: str, tmp_path: Path) -> None:
    events: queue.Queue[HttpBlock | HttpFailed] = queue.Queue()
    source = HttpSource(server, events.put, time.monotonic)
    source.ask(BlobAsk(digest=DIGEST, block_bytes=65536, missing=[(0, 4), (6, 10)]))
    blocks = [events.get(timeout=10) for _ in range(10)]
    source.stop()
    data_bytes = sum(len(block.block.data) for block in blocks if isinstance(block, HttpBlock))
    wire_bytes = sum(block.wire_bytes for block in blocks)
    assert data_bytes + 2 * 300 < wire_bytes < data_bytes + 2 * 1200


def dribble(request: BaseHTTPRequestHandler, data: bytes, *, piece: int, pause_s: float) -> None:
    with contextlib.suppress(OSError):
        for at in range(0, len(data), piece):
            request.wfile.write(data[at : at + piece])
            request.wfile.flush()
            time.sleep(pause_s)


def dribbled_body(request: BaseHTTPRequestHandler) -> None:
    ranged(request, piece=8, pause_s=0.02)  # 400 bytes/s


def dribbled_headers(request: BaseHTTPRequestHandler) -> None:
    dribble(request, b"HTTP/1.1 206 Partial\r\nX: " + b"y" * 10_000, piece=8, pause_s=0.02)


def ranged(request: BaseHTTPRequestHandler, *, piece: int, pause_s: float) -> None:
    first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
    data = DATA[int(first) : int(last) + 1]
    request.send_response(206)
    end = int(first) + len(data) - 1
    request.send_header("Content-Range", f"bytes {first}-{end}/{len(DATA)}")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    dribble(request, data, piece=piece, pause_s=pause_s)


@pytest.mark.parametrize("answer", [dribbled_body, dribbled_headers])
def test_a_server_that_dribbles_is_left_for_mqtt(answer: Answer, tmp_path: Path) -> None:
    http, url = bad(answer)
    began_s = time.monotonic()
    reason, puller = pull(url, tmp_path, timeout_s=0.5)
    http.shutdown()
    assert "sends less than 2048 bytes/s" in reason
    assert time.monotonic() - began_s < 8.0
    assert not puller.blob(DIGEST).exists()


def test_small_answers_do_not_each_begin_anew() -> None:
    now_s = [0.0]
    patience = Patience(20.0, lambda: now_s[0])

    def read() -> int:
        now_s[0] += 19.0  # just within the time of one answer
        return 4096

    with socket.socket() as sock:
        for _ in range(2):
            patience.wait(sock, read)
        with pytest.raises(AgentError, match="less than 2048 bytes/s for 20 s"):
            patience.wait(sock, read)
        patience.renew()
        assert patience.wait(sock, read) == 4096


def test_a_server_that_is_slow_but_goes_on_is_not_left(tmp_path: Path) -> None:
    http, url = bad(lambda request: ranged(request, piece=12_000, pause_s=0.03))
    reason, puller = pull(url, tmp_path, timeout_s=1.2)
    http.shutdown()
    assert reason == ""
    assert puller.blob(DIGEST).read_bytes() == DATA


def test_after_a_failure_http_rests(tmp_path: Path) -> None:
    now_s = [0.0]
    source = HttpSource("http://127.0.0.1:9", lambda event: None, lambda: now_s[0])
    assert source.usable
    source.failed()
    assert not source.usable
    now_s[0] = 301.0
    assert source.usable
    source.ask(BlobAsk(digest=DIGEST, block_bytes=4096, missing=[(0, 0)]))
    source.stop()


@pytest.mark.parametrize("url", ["ftp://x/", "cdn.example", "https://"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises((ContractError, AgentError)):
        HttpSource(TransferSection(http=url).http, lambda event: None, lambda: 0.0)
