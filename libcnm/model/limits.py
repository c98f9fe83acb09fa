"""Every bound in one place, each with its reason. Units stand last in the name."""

from __future__ import annotations

from typing import Final

# -- names and labels ---------------------------------------------------------------------------------------------
NAME_CHARS: Final = 128
"""moby's pattern allows 128; the DNS form of a name is limited further (a label has 63 octets, RFC 1035 2.3.4)."""
DNS_LABEL_CHARS: Final = 63
"""RFC 1035 2.3.4. An endpoint's name and aliases are for DNS, so each of their labels is held to it."""
HOSTNAME_CHARS: Final = 64
"""HOST_NAME_MAX of Linux; a name with its domain has 253 (RFC 1035 2.3.4)."""
PATH_BYTES: Final = 4095
"""PATH_MAX of Linux is 4096 with the terminating NUL."""
LABELS: Final = 64
LABEL_BYTES: Final = 4096
LABELS_BYTES: Final = 32 * 1024
"""All labels (or options) of an object, as they are stored. A host's ledger line holds a network's and an endpoint's
labels and options, four times this, in one transaction."""
ALIASES: Final = 64
PORTS_PER_ENDPOINT: Final = 24
"""Each may be a compare and a write of the transaction that attaches the endpoint; that has 60 operations, of which up
to 8 are its own."""
HOST_IPS: Final = 16
"""Addresses of this host that a port without one is bound to."""
BOUND_PORTS: Final = 1024
"""Of a record: each port at each of its addresses, and in a sandbox's way out those of all its endpoints."""
SUBNETS_PER_NETWORK: Final = 16
"""Keeps an endpoint's claims (one address a subnet) far below one transaction's 60 operations."""

AUX_PER_SUBNET: Final = 60
"""Each is a write of the transaction that makes the network."""
PRIORITY_MAX: Final = 1_000_000
ARGUMENTS: Final = 32 * 1024
"""Of a program that is run; Linux has a limit of bytes, a quarter of the stack."""
PROCESS_ID_MAX: Final = 2**22
"""PID_MAX_LIMIT of Linux."""
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
TIMEOUT_SECONDS_MAX: Final = 3600
"""The longest budget: a verb that has not ended within an hour never will."""

# -- request ids -----------------------------------------------------------------------------------------------------
REQUEST_NOTES: Final = 4096
"""Notes that are kept, the newest: more than an installation can write within one verb's budget (an attach takes some
3 ms), after which whoever asks again asks for the second time; in all less than 2 MB."""
REQUEST_NOTES_UNCOUNTED: Final = 256
"""How many a process writes before it counts them again: listing them takes as long as a few verbs."""
REQUEST_SECONDS: Final = 86_400.0
"""A day: whoever repeats a request later than that has forgotten what it was about, and may find its id free."""

# -- the resident ------------------------------------------------------------------------------------------------------
REQUEST_BYTES: Final = 4096
"""Of one request to it: an attachment's keys, and what was written there unless that is long (many ports, aliases)."""

# -- names service -----------------------------------------------------------------------------------------------------
DNS_UDP_BYTES: Final = 1232
"""DNS Flag Day 2020."""
DNS_TTL_SECONDS: Final = 5
"""Answers change when containers move; libnetwork's 600 s outlived them."""
DNS_CACHE_ENTRIES: Final = 4096
DNS_FORWARDS_IN_FLIGHT: Final = 1024
DNS_TCP_CONNECTIONS: Final = 128
DNS_UPSTREAMS: Final = 3
DNS_SERVERS: Final = 16
"""How many a sandbox may be given; glibc asks three, and the sixteenth is not asked within any client's patience."""
DNS_SEARCH: Final = 32
"""resolv.conf(5) has no limit since glibc 2.26; six were enough before."""
DNS_OPTIONS: Final = 32
DNS_OPTION_CHARS: Final = 64
"""The longest of resolv.conf(5), ``single-request-reopen``, has 21."""
EXTRA_HOSTS: Final = 512
"""Of 253 and 39 characters at most: with labels and search domains still one transaction."""
