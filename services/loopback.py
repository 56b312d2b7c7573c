"""Which names and addresses can only be this machine."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine: `localhost`, 127.0.0.0/8, ::1."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
