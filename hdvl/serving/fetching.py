"""Remote images: fetched only from allowed hosts, and never from a name that resolves to a private address.

An address is resolved once and checked, and the connection is made to that very address, so that a name
cannot resolve to another one in between. Every redirect is checked like the first URL.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from hdvl.serving.errors import bad_request

MAX_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_CHUNK = 2**16


def fetch(url: str, *, hosts: Sequence[str], max_bytes: int, seconds: float) -> bytes:
    """The bytes of an image at ``url``.

    Args:
        url: an ``http`` or ``https`` URL.
        hosts: allowed hosts, as ``name`` (any port) or ``name:port``.
        max_bytes: larger files are refused.
        seconds: how long it may take in all.

    Raises:
        APIError: the host is not allowed or has a private address, or the file cannot be had within the
            bounds.
    """
    end = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        parts, port = _checked(url, hosts)
        response, connection = _get(parts, port, end)
        try:
            target = response.headers.get("Location")
            if response.status in (301, 302, 303, 307, 308) and target:
                url = urljoin(url, target)
                continue
            if response.status != 200:
                raise bad_request(f"{_shown(url)} answered with status {response.status}")
            return _read(response, url, max_bytes, end)
        finally:
            response.close()
            connection.end()
    raise bad_request(f"{_shown(url)} redirects more than {MAX_REDIRECTS} times")


def _checked(url: str, hosts: Sequence[str]) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise bad_request(f"an image's URL must be valid, got {_shown(url)}") from None
    if parts.scheme not in _PORTS or not host:
        raise bad_request(f"an image's URL must be http or https with a host, got {_shown(url)}")
    if parts.username is not None or parts.password is not None:
        raise bad_request(f"an image's URL must not hold a user name, got {_shown(url)}")
    if not {host, f"{host}:{port}"} & {known.lower() for known in hosts}:
        raise bad_request(
            f"images of the host {host:.100} are not fetched here; send the image as a data: URL, or start "
            "the server with allowed_hosts"
        )
    return parts, port


def _get(parts: SplitResult, port: int, end: float) -> tuple[http.client.HTTPResponse, "_Pinned"]:
    host = str(parts.hostname)
    address = _address(host, port)
    connection = _Pinned(host, port, address, parts.scheme, end)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", path, headers={"User-Agent": "hdvl", "Accept": "image/*"})
        return connection.getresponse(), connection
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        connection.end()
        _left(end)
        raise bad_request(f"{host} cannot be reached: {type(error).__name__}") from None


def _address(host: str, port: int) -> str:
    """The address of ``host``. One that was resolved from a name must be public."""
    try:
        return str(ipaddress.ip_address(host))  # the list of allowed hosts names it itself
    except ValueError:
        pass
    try:
        found = {
            str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        }
    except (OSError, UnicodeError):
        raise bad_request(f"the host {host:.100} is not known") from None
    private = [address for address in found if not ipaddress.ip_address(address).is_global]
    if private or not found:
        raise bad_request(
            f"the host {host:.100} has a private address; images are not fetched there"
        )
    return sorted(found)[0]


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was checked, under the name of its host.

    A timer ends it. Timeouts of a socket hold for each reading, so a host that sends a byte now and then
    could keep it for any time.
    """

    def __init__(self, host: str, port: int, address: str, scheme: str, end: float) -> None:
        super().__init__(host, port, timeout=_left(end))
        self._checked_address, self._scheme, self._end = address, scheme, end
        self._timer: threading.Timer | None = None

    def connect(self) -> None:
        """Connect to the address that was checked, without resolving the name again."""
        sock = socket.create_connection((self._checked_address, self.port), self.timeout)
        if self._scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self.host)
        self.sock = sock
        self._timer = threading.Timer(_left(self._end), _shut, (sock,))
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Close the connection and stop its timer."""
        self.close()
        if self._timer is not None:
            self._timer.cancel()


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        sock.shutdown(socket.SHUT_RDWR)


def _read(response: http.client.HTTPResponse, url: str, max_bytes: int, end: float) -> bytes:
    data = bytearray()
    try:
        while chunk := response.read1(_CHUNK):
            data += chunk
            if len(data) > max_bytes:
                raise bad_request(f"{_shown(url)} must be at most {max_bytes} bytes; scale it down")
        _left(end)  # also a connection that the timer has ended has no more bytes
        return bytes(data)
    except (OSError, http.client.HTTPException) as error:
        _left(end)
        raise bad_request(f"{_shown(url)} cannot be read: {type(error).__name__}") from None


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise bad_request("fetching the image takes too long; send it as a data: URL")
    return left


def _shown(url: str) -> str:
    """A URL without what may be secret in it."""
    return repr(url.split("?")[0][:100])
