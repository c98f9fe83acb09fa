"""The parser of the hot path: against independent implementations, against RFC 9267's list, against noise."""

from __future__ import annotations

import random

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.contracts.resolver import Rcode
from libcnm.dns.question import BadQuery, Question, parse, quick_key

HEADER = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
WEB = b"\x03Web\x04BLUE\x00\x00\x01\x00\x01"
OPT = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"


def with_opt(opt: bytes) -> bytes:
    return HEADER[:11] + b"\1" + WEB + opt


def verdict(data: bytes) -> Rcode | None:
    with pytest.raises(BadQuery) as caught:
        parse(data)
    return caught.value.rcode


def test_a_plain_query() -> None:
    """Every field as it was sent; the name in its text form."""
    question = parse(HEADER + WEB)
    assert (b"\x12\x34", 0x0100, "web.blue", 1, WEB, None) == (
        question.id,
        question.flags,
        question.name,
        question.type,
        question.wire,
        question.edns,
    )
    assert 512 == question.udp_octets()


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 512), (511, 512), (600, 600), (1232, 1232), (1233, 1232), (65535, 1232)]
)
def test_the_udp_size(size: int, expected: int) -> None:
    """What the client takes, between RFC 1035's 512 and our 1232."""
    assert expected == parse(with_opt(OPT[:3] + size.to_bytes(2, "big") + OPT[5:])).udp_octets()


def test_edns_flags_and_options() -> None:
    """DO is read, unknown flags and options are not held against the client (RFC 6891 6.1.2, RFC 8906 8.2)."""
    question = parse(with_opt(OPT[:7] + b"\xff\xff\x00\x06\xfd\xe9\x00\x02ab"))
    assert question.edns is not None
    assert (True, 0) == (question.edns.dnssec_ok, question.edns.version)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", None),
        (HEADER[:11], None),
        (b"\x12\x34\x81" + HEADER[3:] + WEB, None),  # a response is never answered
        (b"\x12\x34\x80" + HEADER[3:], None),
        (b"\x12\x34\x09" + HEADER[3:] + WEB, Rcode.NOTIMP),  # IQUERY
        (b"\x12\x34\x79" + HEADER[3:], Rcode.NOTIMP),
        (HEADER, Rcode.FORMERR),
        (HEADER[:5] + b"\0" + HEADER[6:], Rcode.FORMERR),  # no question
        (HEADER[:5] + b"\2" + HEADER[6:] + WEB + WEB, Rcode.FORMERR),  # RFC 9619
        (HEADER[:7] + b"\1" + HEADER[8:] + WEB, Rcode.FORMERR),
        (HEADER[:9] + b"\1" + HEADER[10:] + WEB, Rcode.FORMERR),
        (HEADER[:11] + b"\2" + WEB + OPT + OPT, Rcode.FORMERR),  # two OPTs
        (HEADER[:11] + b"\1" + WEB, Rcode.FORMERR),  # a count that lies
        (HEADER + WEB + b"\0", Rcode.FORMERR),  # octets after the end
        (HEADER + WEB + OPT, Rcode.FORMERR),
        (HEADER + b"\xc0\x0c\x00\x01\x00\x01", Rcode.FORMERR),  # pointer to itself
        (HEADER + b"\xc0\xff\x00\x01\x00\x01", Rcode.FORMERR),  # forward
        (HEADER + b"\xc0\x00\x00\x01\x00\x01", Rcode.FORMERR),  # into the header
        (HEADER + b"\x03Web\xc0\x0c\x00\x01\x00\x01", Rcode.FORMERR),
        (HEADER + b"\x40" + b"a" * 64 + b"\0\0\1\0\1", Rcode.FORMERR),  # label > 63, or an extended label
        (HEADER + b"\x80" + WEB, Rcode.FORMERR),
        (HEADER + b"\x3f" + b"a" * 62, Rcode.FORMERR),  # cut short
        (HEADER + b"\x03Web", Rcode.FORMERR),  # no terminating zero
        (HEADER + WEB[:-1], Rcode.FORMERR),
        (HEADER + b"\1a" * 127 + b"\1a\0\0\1\0\1", Rcode.FORMERR),  # name > 255
        (with_opt(OPT[:-1]), Rcode.FORMERR),
        (with_opt(OPT[:-1] + b"\1"), Rcode.FORMERR),  # RDLENGTH past the end
        (with_opt(OPT[:-2] + b"\0\3\0\1\0"), Rcode.FORMERR),  # half an option
        (with_opt(OPT[:-2] + b"\0\4\0\1\0\1"), Rcode.FORMERR),  # an option longer than the record
        (with_opt(b"\1a" + OPT[1:]), Rcode.FORMERR),  # OPT that is not the root's
        (with_opt(b"\0\0\xfa" + OPT[3:]), Rcode.FORMERR),  # TSIG: not understood
        (with_opt(OPT[:6] + b"\1" + OPT[7:]), Rcode.BADVERS),
        (HEADER + WEB[:-1] + b"\3", Rcode.REFUSED),  # CHAOS
        (HEADER + WEB[:-1] + b"\xff", Rcode.REFUSED),
        (HEADER + WEB[:-3] + b"\x29\0\1", Rcode.FORMERR),  # type OPT
        (HEADER + WEB[:-3] + b"\xfc\0\1", Rcode.REFUSED),  # AXFR
        (HEADER + WEB[:-3] + b"\xfb\0\1", Rcode.REFUSED),  # IXFR
    ],
)
def test_what_is_not_answered(data: bytes, expected: Rcode | None) -> None:
    """RFC 9267's anti-patterns and the ways to ask what we do not do: one code each, silence without a header."""
    assert expected is verdict(data)


def test_the_longest_name() -> None:
    """255 octets are allowed, the root's zero included."""
    assert 127 == len(parse(HEADER + b"\1a" * 127 + b"\0\0\1\0\1").name.split("."))


LABEL = st.binary(min_size=1, max_size=20)


@given(
    labels=st.lists(LABEL, max_size=6),
    qtype=st.integers(0, 65535).filter(lambda t: t not in (41, 251, 252)),
    flags=st.sampled_from([0, 0x0100, 0x0120, 0x0110, 0x0140, 0x0500]),
    edns=st.none() | st.tuples(st.integers(0, 65535), st.booleans(), st.binary(max_size=20)),
)
def test_well_formed_queries_are_read_as_dnspython_reads_them(
    labels: list[bytes], qtype: int, flags: int, edns: tuple[int, bool, bytes] | None
) -> None:
    """Name, type, flags, EDNS size and DO: two implementations, one reading."""
    message = dns.message.make_query(dns.name.Name([*labels, b""]), qtype)  # type: ignore[arg-type]
    message.flags = dns.flags.Flag(flags)
    if edns is not None:
        options: list[dns.edns.Option] = [dns.edns.GenericOption(dns.edns.OptionType.make(65001), edns[2])]
        message.use_edns(0, dns.flags.DO if edns[1] else 0, edns[0], options=options)
    question = parse(message.to_wire())
    assert same_reading(question, message)
    assert (edns and edns[:2]) == (question.edns and (question.edns.size, question.edns.dnssec_ok))


def same_reading(question: Question, message: dns.message.Message) -> bool:
    asked = message.question[0]
    wire = (asked.name.to_wire() or b"") + int(asked.rdtype).to_bytes(2, "big") + int(asked.rdclass).to_bytes(2, "big")
    return (question.wire, question.type) == (wire, asked.rdtype)


def mutants(seed: int, count: int) -> list[bytes]:
    """Queries with some octets flipped, cut, doubled or thrown in."""
    rng = random.Random(seed)
    seeds = [HEADER + WEB, with_opt(OPT), with_opt(OPT[:-2] + b"\0\6\xfd\xe9\0\2ab"), HEADER + b"\1a" * 120 + WEB]
    made = []
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(5):
                case 0:
                    data[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    del data[at:]
                case 2:
                    data[at:at] = rng.choice([b"\xc0\x0c", b"\0", b"\xff", b"\x3f", bytes(data[:at])])
                case 3:
                    data[at : at + 1] = rng.choice([b"\0", b"\1", b"\x3f", b"\x40", b"\xc0", b"\x29"])
                case _:
                    data += bytes(rng.randrange(256) for _ in range(rng.randrange(8)))
        made.append(bytes(data[:4096]))
    return made


@pytest.mark.parametrize("seed", range(4))
def test_mutants_raise_nothing_but_our_own_error(seed: int) -> None:
    """And what is accepted, dnspython accepts too and reads alike; responses and stumps are never answered."""
    for data in mutants(seed, 3000):
        silent: set[bool] = set()
        try:
            question = parse(data)
        except BadQuery as bad:
            silent.add(bad.rcode is None)
            continue
        finally:
            assert silent <= {len(data) < 12 or data[2] & 0x80 != 0}
        bare = data[: 12 + len(question.wire)] + (
            data[12 + len(question.wire) :][:9] + b"\0\0" if question.edns else b""
        )
        assert same_reading(question, dns.message.from_wire(bare, ignore_trailing=False))


@given(st.binary(max_size=200))
def test_noise_raises_nothing_but_our_own_error(data: bytes) -> None:
    """With and without a plausible header in front."""
    for message in (data, HEADER + data, with_opt(data), HEADER[:11] + b"\1" + data):
        try:
            parse(message)
        except BadQuery:
            continue


def test_dnslib_reads_the_same_names() -> None:
    """A second oracle for accepted mutants; it takes ASCII only."""
    for data in mutants(99, 500):
        try:
            question = parse(data)
        except BadQuery:
            continue
        if not question.wire.isascii():
            continue
        asked = dnslib.DNSRecord.parse(data[:10] + b"\0\0" + question.wire).q
        assert question.type == asked.qtype


# -- keys --------------------------------------------------------------------------------------------------------------


def test_the_quick_key_is_the_key() -> None:
    """An ordinary query is found without parsing, whatever its case and id."""
    for data in (HEADER + WEB, with_opt(OPT)):
        other = b"\xff\xff" + data[2:12] + data[12:].replace(b"Web", b"wEB").replace(b"BLUE", b"blue")
        assert parse(data).key == quick_key(data) == quick_key(other)


def test_the_key_ignores_options_only() -> None:
    """Options (a cookie, padding) do not make another question; type, size, DO and RD do."""
    assert parse(with_opt(OPT)).key == parse(with_opt(OPT[:-2] + b"\0\6\xfd\xe9\0\2ab")).key
    different = [
        HEADER + WEB,
        with_opt(OPT),
        with_opt(OPT[:4] + b"\xd1" + OPT[5:]),
        with_opt(OPT[:7] + b"\x80" + OPT[8:]),
        HEADER[:2] + b"\0" + HEADER[3:] + WEB,
        HEADER + WEB[:-3] + b"\x41\0\1",  # type 65 and type 97: capital and small letter, two types
        HEADER + WEB[:-3] + b"\x61\0\1",
    ]
    assert len(different) == len({parse(data).key for data in different})
    assert len(different) == len({quick_key(data) for data in different})


def test_a_name_with_a_zero_octet_has_no_key() -> None:
    """The quick way would see its end too early."""
    data = HEADER + b"\3a\0b\0\0\1\0\1"
    assert b"" == parse(data).key


@pytest.mark.parametrize("seed", range(4))
def test_equal_quick_keys_mean_equal_questions(seed: int) -> None:
    """What a mutant finds in a cache under its quick key is the answer to its own question, with its own end."""
    kept: dict[bytes, Question] = {}
    for data in mutants(seed, 4000):
        try:
            question = parse(data)
        except BadQuery:
            assert quick_key(data) not in kept
            continue
        found = kept.get(quick_key(data))
        if found is not None:
            assert (found.name, found.type, found.flags, found.edns) == (
                question.name,
                question.type,
                question.flags,
                question.edns,
            )
            assert data[12 : data.find(0, 12) + 5] == question.wire
        if question.key:
            kept[question.key] = question
    for data in mutants(seed, 4000):
        if quick_key(data) in kept:
            parse(data)
