"""The addresses that a webhook may have, checked when it is created and before each delivery.

A server reaches addresses that its users do not, and a webhook must not give them access. Always
refused are cloud metadata and other link-local addresses, multicast and reserved addresses. Private
networks and loopback are normal on a self-hosted server; `DREADNODE_WEBHOOK_TARGETS=public` refuses
them. A host name is resolved once for each delivery, and the delivery goes to the address that was
checked, so a second DNS response changes nothing.
"""

import asyncio
import ipaddress
import socket
from urllib.parse import SplitResult, urlsplit

from dreadnode_api.errors import Invalid

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MAX_URL = 2000
_SHARED = ipaddress.ip_network("100.64.0.0/10")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotAllowed(Exception):
    """An address that is not allowed; the text is one sentence."""


def check_url(url: str, targets: str) -> None:
    """Return if a webhook may have this URL, as far as can be checked without DNS.

    Raises:
        Invalid: the URL is not allowed.
    """
    parts = _parts(url)
    host = parts.hostname or ""
    literal = _literal(host)
    is_loopback = host == "localhost" or (literal is not None and _embedded(literal).is_loopback)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback):
        raise Invalid(
            "The URL of a webhook must begin with `https://`; only `http://127.0.0.1` and other "
            "addresses of this machine may do without TLS",
            "url",
        )
    if host == "localhost" and targets == "public":
        raise Invalid("This server does not allow webhooks to its own machine", "url")
    if literal is not None:
        try:
            check_address(literal, targets)
        except NotAllowed as error:
            raise Invalid(str(error), "url") from None


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or len(url) > MAX_URL or not url.isascii() or any(c <= " " for c in url):
        raise Invalid("This is not a URL; write it as `https://example.com/path`", "url")
    if parts.username is not None or parts.password is not None:
        raise Invalid(
            "Remove user and password from the URL; the signature identifies the sender", "url"
        )
    if parts.fragment:
        raise Invalid("Remove the part after `#`; it is never sent", "url")
    return parts


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # Other notations that the system accepts, such as `2130706433` or `127.1`.
        return ipaddress.ip_address(socket.inet_aton(host))
    except OSError:
        return None


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address contains, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def check_address(address: Address, targets: str) -> None:
    """Return if a delivery may go to this address.

    Raises:
        NotAllowed: it may not.
    """
    address = _embedded(address)
    if (
        address.is_loopback
        or (address.is_private and not _is_forbidden(address))
        or _is_shared(address)
    ):
        if targets == "public":
            raise NotAllowed(
                f"{address} is not a public address, and this server allows only those; an "
                "operator can change that with `DREADNODE_WEBHOOK_TARGETS=any`"
            )
        return
    if _is_forbidden(address) or not address.is_global:
        raise NotAllowed(f"Webhooks to the address {address} are never allowed")


def _is_forbidden(address: Address) -> bool:
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (address.is_reserved and not address.is_loopback)
    )


def _is_shared(address: Address) -> bool:
    return isinstance(address, ipaddress.IPv4Address) and address in _SHARED


async def resolve(url: str, targets: str) -> str:
    """Return the address for URL, after checking every address that its host name resolves to.

    Raises:
        NotAllowed: one of them is not allowed.
        OSError: the host name cannot be resolved.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        check_address(address, targets)
        if parts.scheme == "http" and not _embedded(address).is_loopback:
            raise NotAllowed("Without TLS, a webhook must be on this machine")
    return str(addresses[0])
