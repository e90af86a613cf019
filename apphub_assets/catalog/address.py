"""Which Git addresses may be reached: decided once by their text, and again by what their host resolves to.

A repository's address comes from a stranger and is used from inside the company's network. So the transports are
few, nothing secret may be in it, the host must be public unless the operator named it, and the connection goes to
the very addresses that were checked.
"""

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from apphub_assets.errors import Refused, Unavailable
from apphub_assets.settings import Settings

PORTS = {"http": 80, "https": 443, "git": 9418}
MAX_LENGTH = 2048
HOST_NAME = re.compile(r"(?!-)[a-z0-9._-]{1,253}")
NAT64 = ipaddress.ip_network("64:ff9b::/96")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressRefused(Refused):
    code, title = "address_refused", "Repository address refused"


class RepositoryUnreachable(Unavailable):
    """The host has no address or does not answer now; later it may."""

    code, title = "repository_unreachable", "Repository unreachable"


@dataclass(frozen=True)
class AddressPolicy:
    """What the operator allows beyond public hosts."""

    private_hosts: frozenset[str] = frozenset()
    private_networks: tuple[IPNetwork, ...] = ()
    local_roots: tuple[Path, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> "AddressPolicy":
        """Read `git_private_hosts` (names, addresses, CIDRs) and `git_local_roots` (folders)."""
        hosts = {part.strip().lower() for part in settings.git_private_hosts.split(",") if part.strip()}
        networks = {host: network for host in hosts if (network := _network(host)) is not None}
        roots = (part.strip() for part in settings.git_local_roots.split(","))
        return cls(
            private_hosts=frozenset(hosts - networks.keys()),
            private_networks=tuple(networks.values()),
            local_roots=tuple(Path(root).resolve() for root in roots if root),
        )

    def allows(self, host: str, address: IPAddress) -> bool:
        """Whether `host` may be reached at `address`."""
        return is_public(address) or host in self.private_hosts or any(address in net for net in self.private_networks)


@dataclass(frozen=True)
class Address:
    """A repository's address, taken apart and put together again; `path` of a local one is resolved."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The normal form: lower-case host, no default port; `file:///path` for a local folder."""
        if self.scheme == "file":
            return f"file://{self.path}"
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{bracketed(self.host)}{port}{self.path}"


def check_address(url: str, settings: Settings) -> str:
    """Return the normal form of `url` if policy allows it, as far as can be told without asking the network.

    Raises:
        AddressRefused: another transport, credentials, control characters, a private address, a folder outside
            the allowed roots. The message never repeats a credential.
    """
    return parse_address(url, AddressPolicy.of(settings)).url


def parse_address(url: str, policy: AddressPolicy) -> Address:
    """Take `url` apart: http, https or git, or a local folder as `file://` or absolute path.

    Raises:
        AddressRefused: see `check_address`.
    """
    if not url or len(url) > MAX_LENGTH or not url.isprintable() or url != url.strip() or "\\" in url:
        raise AddressRefused(f"repository address: use 1–{MAX_LENGTH} printable characters without spaces around them")
    if url.startswith("/"):
        return _local(url, policy)
    scheme = url.partition("://")[0].lower()
    if scheme == "file":
        return _local(_file_path(url), policy)
    if scheme not in PORTS:
        raise AddressRefused(
            f"repository address {_shown(url)}: use https://, http:// or git://, or file:// below an allowed folder"
        )
    return _remote(url, scheme, policy)


def resolve(address: Address, policy: AddressPolicy) -> list[str]:
    """Return every IP address of the host, each checked: connect to no other one. A local folder has none.

    Raises:
        AddressRefused: one of them is private and not allowed by `git_private_hosts`.
        RepositoryUnreachable: the name can't be resolved now.
    """
    if address.scheme == "file":
        return []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise RepositoryUnreachable(
            f"repository host {address.host!r} can't be resolved: {error}; check the name"
        ) from error
    addresses = list(dict.fromkeys(str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found))
    for text in addresses:
        _check_reachable(address.host, ipaddress.ip_address(text), policy)
    return addresses


def is_public(address: IPAddress) -> bool:
    """Whether an address is one of the open internet, also where it wraps an IPv4 address."""
    if (inner := _embedded(address)) is not None:
        return is_public(inner)
    inside = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    return address.is_global and not inside and not getattr(address, "is_site_local", False)


def bracketed(host: str) -> str:
    """An IPv6 literal in brackets, as URLs want it; anything else as it is."""
    return f"[{host}]" if ":" in host else host


def _remote(url: str, scheme: str, policy: AddressPolicy) -> Address:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORTS[scheme]
    except ValueError as error:
        raise AddressRefused(f"repository address: not a URL ({error})") from error
    if "@" in parts.netloc:
        raise AddressRefused(
            "repository address: it carries a user name or password, which AppHub neither stores nor logs; "
            "use an address without them"
        )
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise AddressRefused("repository address: it has a query or fragment; use the address that `git clone` takes")
    if not parts.path.strip("/"):
        raise AddressRefused(f"repository address {_shown(url)}: the path of the repository is missing")
    address = Address(scheme, _host(host), port, parts.path.rstrip("/"))
    _check_host(address.host, policy)
    return address


def _host(host: str) -> str:
    """The ASCII form of a host name or IP literal."""
    if ":" in host and "%" not in host:
        return host  # urlsplit has checked that it is an IPv6 literal
    try:
        name = host.encode("idna").decode().lower().rstrip(".")
    except UnicodeError as error:
        raise AddressRefused(f"repository host {host[:80]!r}: not a host name") from error
    if not HOST_NAME.fullmatch(name):
        raise AddressRefused(f"repository host {host[:80]!r}: not a host name")
    return name


def _check_host(host: str, policy: AddressPolicy) -> None:
    """Refuse what is private by its text alone; names are resolved when they are used."""
    try:
        _check_reachable(host, ipaddress.ip_address(host), policy)
    except ValueError:
        if (host == "localhost" or host.endswith(".localhost")) and not _names_loopback(host, policy):
            raise _private(host, host) from None


def _names_loopback(host: str, policy: AddressPolicy) -> bool:
    return policy.allows(host, ipaddress.ip_address("127.0.0.1"))


def _check_reachable(host: str, address: IPAddress, policy: AddressPolicy) -> None:
    if not policy.allows(host, address):
        raise _private(host, str(address))


def _private(host: str, address: str) -> AddressRefused:
    return AddressRefused(
        f"repository host {host!r} is at {address}, which is not a public address; "
        "an operator can allow it in APPHUB_GIT_PRIVATE_HOSTS"
    )


def _file_path(url: str) -> str:
    rest = url[len("file://") :].removeprefix("localhost")
    if not rest.startswith("/"):
        raise AddressRefused("repository address: file:// needs an absolute path, as in file:///srv/git/app")
    return unquote(rest)


def _local(path: str, policy: AddressPolicy) -> Address:
    """A folder below an allowed root, after following every link, its `.git` included."""
    if not path.isprintable():
        raise AddressRefused("repository address: the path has control characters")
    folder = Path(path).resolve()
    if os.path.isfile(folder / ".git"):  # noqa: PTH113 - answers False where the system refuses the name
        raise AddressRefused(f"repository folder {path[:200]!r} is a linked worktree; use the repository it belongs to")
    if not all(_below(place, policy.local_roots) for place in (folder, (folder / ".git").resolve())):
        raise AddressRefused(
            f"repository folder {path[:200]!r} is not below an allowed folder; "
            "an operator can allow its parent in APPHUB_GIT_LOCAL_ROOTS"
        )
    return Address("file", "", 0, str(folder))


def _below(path: Path, roots: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _network(text: str) -> IPNetwork | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _embedded(address: IPAddress) -> IPAddress | None:
    """The IPv4 address that an IPv6 one stands for: mapped, 6to4 or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _shown(url: str) -> str:
    """What a message may repeat of an address that was refused: no user part, no query."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return repr(url.rpartition("@")[2][:80])
    return repr(f"{scheme[:20]}://{re.split('[?#]', rest)[0].rpartition('@')[2][:80]}")
