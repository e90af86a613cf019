"""One small network per build and per sandbox.

Subnets come from 198.18.0.0/15, which RFC 2544 sets aside and nobody routes: the engine's own pools end at about 30
networks, and one firewall rule for this range (`iptables -I DOCKER-USER -s 198.18.0.0/15 -d … -j DROP`) lets an
operator close what builds may reach.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Network
from zlib import crc32

import docker
from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool

from .engine import reason
from .errors import EngineFault

RANGE = IPv4Network("198.18.0.0/15")
PREFIX = 29
SLOTS = 2 ** (PREFIX - RANGE.prefixlen)
# No address of the host on the bridge: what runs inside has nobody to send a packet for the outside to.
SEALED = {"com.docker.network.bridge.inhibit_ipv4": "true"}
REMOVAL_SECONDS = 60.0
CPU_PERIOD = 100_000


def create_network(api: docker.APIClient, name: str, labels: Mapping[str, str], *, sealed: bool) -> IPv4Network:
    """Make a bridge network of its own subnet; a sealed one reaches neither the host nor anything behind it.

    Raises:
        APIError: status 409: the name is taken.
    """
    first = crc32(name.encode())
    for attempt in range(SLOTS):
        subnet = _slot((first + attempt) % SLOTS)
        ipam = IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet))])
        options = SEALED if sealed else {}
        try:
            api.create_network(
                name, "bridge", options, ipam, check_duplicate=True, internal=sealed, labels=dict(labels)
            )
        except APIError as error:
            if "overlaps" not in reason(error):
                raise
        else:
            return subnet
    raise EngineFault(f"All {SLOTS} subnets of {RANGE} are taken on this engine; remove networks that nobody uses")


def _slot(index: int) -> IPv4Network:
    size = 2 ** (32 - PREFIX)
    return IPv4Network((int(RANGE.network_address) + index * size, PREFIX))


def remove_network(api: docker.APIClient, name: str) -> None:
    """Remove a network with every container on it, whatever state they are in; fine when there is none."""
    deadline = time.monotonic() + REMOVAL_SECONDS
    while not _emptied(api, name) or not _removed(api, name):
        if time.monotonic() > deadline:
            raise EngineFault(f"Network {name} could not be emptied within {REMOVAL_SECONDS:.0f} s; see `docker ps -a`")
        time.sleep(0.1)


def _emptied(api: docker.APIClient, name: str) -> bool:
    containers = api.containers(all=True, filters={"network": name})
    for container in containers:
        remove_container(api, container["Id"])
    return not containers


def remove_container(api: docker.APIClient, container: str) -> None:
    """Kill and remove a container with its anonymous volumes; fine when there is none, or when it takes longer."""
    # Thousands of processes need CPU time to die; under a quota the engine gives up waiting for them. A container that
    # can't be updated has none left.
    with suppress(APIError):
        api.update_container(container, cpu_quota=-1)
    try:
        api.remove_container(container, v=True, force=True)
    except NotFound:
        return
    except APIError as error:
        # Being removed already, or not dead yet: whoever needs it gone looks again.
        if error.status_code not in (409, 500):
            raise


def _removed(api: docker.APIClient, name: str) -> bool:
    try:
        api.remove_network(name)
    except NotFound:
        return True
    except APIError as error:
        if "active endpoints" not in reason(error):
            raise
        return False
    return True
