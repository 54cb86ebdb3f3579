"""An HTTP client for addresses that nobody has checked: only http(s), only public networks, no surprises.

A metadata file is untrusted input. An address in it, a redirect, or a name that resolves differently the second time
must not make us ask the machines of a private network (or this one) for anything. So the check sits where connections
are made: a name is resolved once, every address it has is judged, and the connection goes to an address that passed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from recbole_prism.version import __version__

USER_AGENT = f"recbole-prism/{__version__} (research; image features for recommender systems)"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Refused(Exception):
    """We will not ask for this; the message is the reason."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet; addresses that wrap another one are judged by that."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if wrapped is None and ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def resolve(host: str, port: int, allow_private: bool) -> list[str]:
    """Addresses of a host, in the resolver's order. Raises Refused if one of them is not public, OSError if none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(entry[4][0] for entry in found))
    if not allow_private:
        for address in addresses:
            if not is_public(address):
                raise Refused(f"private or local address: {host} is {address}")
    return addresses


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """httpcore's own backend, connecting only to addresses that passed ``resolve``."""

    def __init__(self, allow_private: bool):
        self.allow_private = allow_private
        self.backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await asyncio.wait_for(resolve(host, port, self.allow_private), timeout)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"no address for {host}: {error}") from error
        except asyncio.TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no address for {host} in time") from error
        problem: Exception = httpcore.ConnectError(f"no address for {host}")
        for address in addresses[:4]:
            try:
                return await self.backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem

    async def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        raise Refused("a unix socket")

    async def sleep(self, seconds: float) -> None:
        await self.backend.sleep(seconds)


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: Any):
        self.stream = stream

    async def __aiter__(self):
        async for part in self.stream:
            yield part

    async def aclose(self) -> None:
        await self.stream.aclose()


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpx over httpcore with GuardedBackend beneath; TLS, names in certificates and pooling as always."""

    def __init__(self, *, allow_private: bool, connections: int):
        self.pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=15,
            network_backend=GuardedBackend(allow_private),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self.pool.aclose()


def make_client(*, allow_private: bool, connections: int, connect_timeout: float, read_timeout: float):
    """An httpx.AsyncClient that follows no redirect by itself and ignores the environment's proxies and .netrc."""
    return httpx.AsyncClient(
        transport=GuardedTransport(allow_private=allow_private, connections=connections),
        timeout=httpx.Timeout(read_timeout, connect=connect_timeout, pool=None),
        headers={"User-Agent": USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"},
        follow_redirects=False,
        trust_env=False,
    )
