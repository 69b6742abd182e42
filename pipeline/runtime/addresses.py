"""Addresses of Ray heads: whether two are one, and whether somebody listens there."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import ray

from pipeline.core.failures import ClusterError
from pipeline.runtime.job import shown

PROBE_S = 3.0


def same(address: str, other: str) -> bool:
    """Whether two HOST:PORT are one; Ray calls this machine by its address in the network."""
    (host, _, port), (other_host, _, other_port) = address.rpartition(":"), other.rpartition(":")
    return port == other_port and bool(_hosts(host) & _hosts(other_host))


def _hosts(name: str) -> set[str]:
    try:
        found = {str(row[4][0]) for row in socket.getaddrinfo(name.strip("[]"), None)}
    except OSError:
        return {name}
    return found | ({ray.util.get_node_ip_address()} if found & {"127.0.0.1", "::1"} else set())


def probe(address: str) -> None:
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme != "ray" or not host or not port:
        raise ClusterError(
            f"{shown(address)}: expected HOST:PORT of a Ray head (its default port is 6379), auto or local"
        )
    try:
        socket.create_connection((host, port), PROBE_S).close()
    except OSError as error:
        raise ClusterError(
            f"{shown(address)}: no Ray head answers at {host}:{port} ({error}); "
            "start one with ray start --head, or pass --address local"
        ) from error
