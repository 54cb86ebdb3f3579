"""An HTTP server on 127.0.0.1 that serves images and misbehaves, by path."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.prepare.pictures_made import jpeg


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status: int, body: bytes = b"", kind: str = "image/jpeg", **headers) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):  # noqa: N802
        server = self.server
        with server.lock:
            server.asked[self.path] += 1
            server.times[self.path].append(time.monotonic())
            server.active += 1
            server.most_active = max(server.most_active, server.active)
            times = server.asked[self.path]
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                getattr(self, self.path.strip("/").split("/")[0], self.missing)(times)
        finally:
            with server.lock:
                server.active -= 1

    def ok(self, times):
        time.sleep(self.server.delay)
        seed = int(self.path.rsplit("/", 1)[1] or 0)
        self.answer(200, jpeg(seed))

    def missing(self, times):
        self.answer(404, b"no", "text/html")

    def busy(self, times):  # 429 with Retry-After, then fine
        self.answer(429, Retry_After="1") if times == 1 else self.answer(200, jpeg(1))

    def busyforlong(self, times):
        self.answer(429, Retry_After="86400")

    def flaky(self, times):  # 500 then 200
        self.answer(500) if times == 1 else self.answer(200, jpeg(2))

    def broken(self, times):
        self.answer(503)

    def slow(self, times):
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def endless(self, times):
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(b"x" * 65536)
        self.close_connection = True

    def huge(self, times):
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(10**12))
        self.end_headers()
        self.close_connection = True

    def loop(self, times):
        self.answer(302, Location=self.path)

    def moved(self, times):
        self.answer(301, Location="/ok/5")

    def toprivate(self, times):
        self.answer(302, Location="http://10.1.2.3/secret.jpg")

    def tometadata(self, times):
        self.answer(302, Location="http://169.254.169.254/latest/meta-data/")

    def tofile(self, times):
        self.answer(302, Location="file:///etc/passwd")

    def page(self, times):
        self.answer(200, b"<html>", "text/html")

    def notimage(self, times):
        self.answer(200, b"<html>not an image</html>", "image/jpeg")

    def empty(self, times):
        self.answer(200, b"")

    def truncated(self, times):  # the connection ends before the announced length
        body = jpeg(3)
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True

    def cut(self, times):  # a picture that was stored truncated
        self.answer(200, jpeg(4)[:-200])


@contextlib.contextmanager
def serve(delay: float = 0.0):
    """Yields the server; ``url(path)``, ``asked`` (requests by path), ``most_active`` at once."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.lock, server.delay = threading.Lock(), delay
    server.asked, server.active, server.most_active = Counter(), 0, 0
    server.times = defaultdict(list)
    server.url = lambda path: f"http://127.0.0.1:{server.server_port}/{path}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
