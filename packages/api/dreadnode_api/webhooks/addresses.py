"""Where a webhook may point, checked when it is made and again each time it is called.

A server sees addresses that the people who use it do not, so a webhook must not become their way
to them. What is refused always: cloud metadata and other link-local addresses, multicast, and what
is reserved. Private networks and loopback are what a self-hosted server is for, and are refused
with `DREADNODE_WEBHOOK_TARGETS=public`. A name is looked up once for each call, and the call goes
to the address that was checked, so that a second answer of the name server changes nothing.
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
    """This address must not be called; the text is one sentence."""


def check_url(url: str, targets: str) -> None:
    """Return if a webhook may have this address, as far as can be seen without looking it up.

    Raises:
        Invalid: it is no address for a webhook.
    """
    parts = _parts(url)
    host = parts.hostname or ""
    literal = _literal(host)
    is_loopback = host == "localhost" or (literal is not None and _embedded(literal).is_loopback)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback):
        raise Invalid(
            "A webhook's address must begin with `https://`; only on this machine itself, "
            "`http://127.0.0.1`, does it go without",
            "url",
        )
    if host == "localhost" and targets == "public":
        raise Invalid("Webhooks to this machine itself are switched off on this server", "url")
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
        raise Invalid("This is not an address; write it as `https://example.com/path`", "url")
    if parts.username is not None or parts.password is not None:
        raise Invalid(
            "Leave user and password out of the address; the signature proves the sender", "url"
        )
    if parts.fragment:
        raise Invalid("Leave the part behind `#` out; it is never sent", "url")
    return parts


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # What the system reads as an address, such as `2130706433` or `127.1`.
        return ipaddress.ip_address(socket.inet_aton(host))
    except OSError:
        return None


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def check_address(address: Address, targets: str) -> None:
    """Return if a webhook may call this address.

    Raises:
        NotAllowed: it may not.
    """
    address = _embedded(address)
    if address.is_loopback or (address.is_private and not _never(address)) or _is_shared(address):
        if targets == "public":
            raise NotAllowed(
                f"{address} is not a public address, and this server calls no others; an "
                "operator may allow it with `DREADNODE_WEBHOOK_TARGETS=any`"
            )
        return
    if _never(address) or not address.is_global:
        raise NotAllowed(f"{address} is an address that no webhook may have")


def _never(address: Address) -> bool:
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (address.is_reserved and not address.is_loopback)
    )


def _is_shared(address: Address) -> bool:
    return isinstance(address, ipaddress.IPv4Address) and address in _SHARED


async def look_up(url: str, targets: str) -> str:
    """Return the address to call for `url`, after checking all that its name stands for.

    Raises:
        NotAllowed: one of them must not be called.
        OSError: the name is unknown.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        check_address(address, targets)
        if parts.scheme == "http" and not _embedded(address).is_loopback:
            raise NotAllowed("Without TLS a webhook may only be on this machine itself")
    return str(addresses[0])
