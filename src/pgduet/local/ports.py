"""Free TCP ports on the loopback address.

Ports come from 15000 to 29999, below the range from which systems take the source ports of outgoing connections. So a
server that is down for a restart does not lose its port to some client, nor do clients that keep trying its port
connect to themselves. Limit: between the test and the server's own bind another process can take a port; servers are
therefore started in a loop that tries again with other ports.
"""

import secrets
import socket

_FIRST = 15_000
_COUNT = 15_000


def free_ports(count: int) -> list[int]:
    """Give `count` different ports that nothing listens on now."""
    found: list[int] = []
    while len(found) < count:
        port = _FIRST + secrets.randbelow(_COUNT)
        if port not in found and _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
