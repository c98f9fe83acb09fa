"""Every bound in one place, each with its reason. Units stand last in the name."""

from __future__ import annotations

from typing import Final

# -- names and labels ---------------------------------------------------------------------------------------------
NAME_CHARS: Final = 128
"""moby's pattern allows 128; the DNS form of a name is limited further (a label has 63 octets, RFC 1035 2.3.4)."""
LABELS: Final = 64
LABEL_BYTES: Final = 4096
ALIASES: Final = 64
PORTS_PER_ENDPOINT: Final = 1024
SUBNETS_PER_NETWORK: Final = 16
"""Keeps an endpoint's claims (one address a subnet) far below one transaction's 60 operations."""

AUX_PER_SUBNET: Final = 60
"""Each is a write of the transaction that makes the network."""
PRIORITY_MAX: Final = 1_000_000
LOCKS_PER_INTENT: Final = 8
"""A verb holds three at most: network, endpoint, sandbox."""
EPOCH_MAX: Final = 2**31 - 1
"""How often a network is made on one host."""
EPOCH_SECONDS_MAX: Final = 253_402_300_799
"""The end of the year 9999, the last that ``datetime`` can show."""

# -- the store: what Consul and etcd both can -----------------------------------------------------------------------
TRANSACTION_OPERATIONS: Final = 60
"""Consul takes 64 operations in a transaction (etcd 128); the rest is slack for the feed key."""
TRANSACTION_BYTES: Final = 256 * 1024
VALUE_BYTES: Final = 256 * 1024
"""Consul refuses values over 512 KiB, etcd requests over 1.5 MiB."""
KEY_BYTES: Final = 512
REASON_CHARS: Final = 300
"""How much of a reason is told: it may quote what was read."""
DECODED_RECORDS: Final = 4096
"""How many records a process keeps decoded; then it begins anew."""
CONFLICT_RETRIES: Final = 64
"""How often a verb re-reads and tries again when others win a compare; its deadline usually ends it first."""
LEASE_SECONDS_MIN: Final = 10.0
"""Consul's shortest session TTL."""

# -- the kernel ------------------------------------------------------------------------------------------------------
INTERFACE_NAME_BYTES: Final = 15
"""IFNAMSIZ is 16 with the terminating NUL."""
BRIDGE_PORTS: Final = 1023
"""The bridge numbers its ports in 10 bits (BR_MAX_PORTS 1024); port 0 is not used."""
BATCH_MESSAGES: Final = 150
"""Acks of more than ~250 messages in one send overflow a socket's default receive buffer (measured)."""
MTU_MIN: Final = 68
"""IPv4's smallest (RFC 791); with IPv6 it is 1280 (RFC 8200)."""
MTU_MIN_IPV6: Final = 1280
MTU_MAX: Final = 65535
VXLAN_OVERHEAD_IPV4: Final = 50
"""Outer Ethernet is not counted by the MTU: IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14 (RFC 7348)."""
VXLAN_OVERHEAD_IPV6: Final = 70
VXLAN_PORT: Final = 4789
VNI_MIN: Final = 256
"""libnetwork's range begins here."""
VNI_MAX: Final = 2**24 - 1

# -- time ------------------------------------------------------------------------------------------------------------
VERB_SECONDS: Final = 10.0
"""Default budget of a verb."""

# -- request ids -----------------------------------------------------------------------------------------------------
REQUEST_NOTES: Final = 4096
"""Notes that are kept, the newest: more than an installation can write within one verb's budget (an attach takes some
3 ms), after which whoever asks again asks for the second time; in all less than 2 MB."""
REQUEST_NOTES_UNCOUNTED: Final = 256
"""How many a process writes before it counts them again: listing them takes as long as a few verbs."""
REQUEST_SECONDS: Final = 86_400.0
"""A day: whoever repeats a request later than that has forgotten what it was about, and may find its id free."""

# -- names service -----------------------------------------------------------------------------------------------------
DNS_UDP_BYTES: Final = 1232
"""DNS Flag Day 2020."""
DNS_TTL_SECONDS: Final = 5
"""Answers change when containers move; libnetwork's 600 s outlived them."""
DNS_CACHE_ENTRIES: Final = 4096
DNS_FORWARDS_IN_FLIGHT: Final = 1024
DNS_TCP_CONNECTIONS: Final = 128
DNS_UPSTREAMS: Final = 3
