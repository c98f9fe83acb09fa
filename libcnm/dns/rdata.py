"""The data of records that are not addresses, encoded by dnslib. Pure; knows neither questions nor messages.

Addresses are most of what is asked for, and their octets are their data; everything else is left to the library that
knows the formats (RFC 1035 3.3). It is given labels, not text, so that nothing is interpreted on the way.
"""

from __future__ import annotations

import dnslib

from libcnm.dns.names import encodable
from libcnm.errors import Invalid


def pointer(target: str) -> bytes:
    """The data of a PTR record (RFC 1035 3.3.12), uncompressed.

    Raises :class:`~libcnm.errors.Invalid` for what is no domain name (:func:`~libcnm.dns.names.encodable`).
    """
    if not encodable(target):
        raise Invalid("name", target, "is not a domain name")
    buffer = dnslib.DNSBuffer()
    dnslib.PTR(dnslib.DNSLabel([label.encode("ascii") for label in target.split(".")])).pack(buffer)
    return bytes(buffer.data)
