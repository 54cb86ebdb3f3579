"""One image: ask, follow redirects, wait and try again, stop at the limits, say why it failed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

import httpcore
import httpx

from recbole_prism.prepare.network import Refused

_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}


@dataclass(frozen=True)
class Limits:
    """What one download may cost. Times in seconds."""

    connections: int = 32
    per_host: int = 8
    connect_timeout: float = 10.0
    read_timeout: float = 20.0  # between two pieces of a body
    total_timeout: float = 90.0  # one attempt, redirects included
    attempts: int = 4
    backoff: float = 1.0  # before the second attempt; doubles, with jitter
    max_wait: float = 120.0  # a longer Retry-After is not waited for
    max_redirects: int = 5
    max_bytes: int = 20 << 20
    max_pixels: int = 64_000_000
    allow_private: bool = False


class Failed(Exception):
    """An image that could not be had. ``transient``: asking again later may help."""

    def __init__(self, reason: str, transient: bool = False, wait: float | None = None):
        super().__init__(reason)
        self.reason, self.transient, self.wait = reason, transient, wait


@dataclass
class Hosts:
    """Per host: how many requests at once, and until when it asked to be left alone (on the monotonic clock)."""

    per_host: int
    paused_until: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    slots: dict[str, asyncio.Semaphore] = field(default_factory=dict)

    def slot(self, host: str) -> asyncio.Semaphore:
        return self.slots.setdefault(host, asyncio.Semaphore(self.per_host))

    async def wait(self, host: str) -> None:
        while (left := self.paused_until[host] - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def pause(self, host: str, seconds: float) -> None:
        self.paused_until[host] = max(self.paused_until[host], time.monotonic() + seconds)


async def fetch(client: httpx.AsyncClient, url: str, limits: Limits, hosts: Hosts) -> bytes:
    """The body behind ``url``.

    Raises:
        Failed: with the reason, after as many attempts as the limits allow for one that may pass.
    """
    for attempt in range(1, limits.attempts + 1):
        try:
            return await _attempt(client, url, limits, hosts)
        except Failed as error:
            failure = error
        if not failure.transient or attempt == limits.attempts:
            raise failure
        wait = limits.backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        if failure.wait is not None:
            wait = failure.wait
        if wait > limits.max_wait:
            raise Failed(f"{failure.reason}; the server asks to wait {wait:.0f} s", transient=True)
        await asyncio.sleep(wait)
    raise AssertionError("unreachable")


async def _attempt(client: httpx.AsyncClient, url: str, limits: Limits, hosts: Hosts) -> bytes:
    left = limits.total_timeout  # waiting for a slot does not count
    for _ in range(limits.max_redirects + 1):
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise Failed(f"not a web address ({error})") from None
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
            raise Failed(f"refused: only plain http and https addresses, not {parsed.scheme or 'this'!r}")
        async with hosts.slot(parsed.host):
            await hosts.wait(parsed.host)
            start = time.monotonic()
            try:
                answer = await asyncio.wait_for(_request(client, parsed, limits), left)
                left -= time.monotonic() - start
            except Failed as error:
                if error.wait is not None and error.wait <= limits.max_wait:
                    hosts.pause(parsed.host, error.wait)
                raise
            except asyncio.TimeoutError:
                raise Failed(f"took longer than {limits.total_timeout:g} s", transient=True) from None
            except Refused as error:
                raise Failed(f"refused: {error}") from None
            except (httpcore.TimeoutException, httpx.TimeoutException) as error:
                raise Failed(f"timeout ({type(error).__name__})", transient=True) from None
            except (httpcore.NetworkError, httpcore.ProtocolError, httpx.TransportError, OSError) as error:
                raise Failed(f"connection: {error or type(error).__name__}", transient=True) from None
            except (httpcore.UnsupportedProtocol, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                raise Failed(f"cannot be asked for ({error or type(error).__name__})") from None
        if isinstance(answer, bytes):
            return answer
        try:
            url = urljoin(str(parsed), answer)
        except ValueError:
            raise Failed(f"redirect to no web address: {answer[:100]!r}") from None
    raise Failed(f"more than {limits.max_redirects} redirects")


async def _request(client: httpx.AsyncClient, url: httpx.URL, limits: Limits) -> bytes | str:
    """The body, or the address that a redirect names."""
    async with client.stream("GET", url) as response:
        status = response.status_code
        if status in _REDIRECTS:
            if target := response.headers.get("location"):
                return target
            raise Failed(f"HTTP {status} without an address")
        if status != 200:
            raise Failed(f"HTTP {status}", status in _TRANSIENT, retry_after(response.headers.get("retry-after")))
        kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind and not kind.startswith(("image/", "application/octet-stream", "binary/")):
            raise Failed(f"not an image: Content-Type {kind[:60]}")
        length = response.headers.get("content-length", "")
        announced = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
        if announced is not None and announced > limits.max_bytes:
            raise Failed(f"larger than {limits.max_bytes} bytes ({length} announced)")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise Failed("compressed body, which was not asked for")
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > limits.max_bytes:
                raise Failed(f"larger than {limits.max_bytes} bytes")
        if announced is not None and len(body) != announced:
            raise Failed(f"body ends after {len(body)} of {length} bytes", transient=True)
        return bytes(body)


def retry_after(value: str | None) -> float | None:
    """Seconds to wait: a number, or a date in the future; None for anything else."""
    if not value:
        return None
    if value.isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
