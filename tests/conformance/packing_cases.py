"""RFC 7541: fields as they are packed, rightly and wrongly."""

from collections.abc import Iterator

import hpack

from backend.http2.frames import Setting
from tests.conformance.client import Client
from tests.conformance.expectations import COMPRESSION, answered
from tests.conformance.pieces import Case, Head, Step, answer_of, literal, setting, string, whole


def packing(head: Head) -> Iterator[Case]:
    """HPACK that must be understood."""
    pseudo = (
        b"\x82"
        + (b"\x87" if head.scheme == b"https" else b"\x86")
        + b"\x04"
        + string(head.path)
        + b"\x01"
        + string(head.authority)
    )
    test, value = b"x-test", b"value"
    for section, title, field in [
        ("6.1", "an indexed field", b"\x90"),  # accept-encoding: gzip, deflate
        ("6.2.1", "a literal that enters the table, indexed name", b"\x7a" + string(value)),  # user-agent
        ("6.2.1", "a literal that enters the table, new name", b"\x40" + string(test) + string(value)),
        (
            "6.2.1",
            "a literal that enters the table, by Huffman",
            b"\x40" + string(test, huffman=True) + string(value, huffman=True),
        ),
        (
            "6.2.1",
            "a field of the table that was just entered",
            b"\x40" + string(test) + string(value) + b"\xbe",
        ),
        ("6.2.2", "a literal outside the table, indexed name", b"\x0f\x2b" + string(value)),
        ("6.2.2", "a literal outside the table, new name", b"\x00" + string(test) + string(value)),
        (
            "6.2.2",
            "a literal outside the table, by Huffman",
            b"\x00" + string(test, huffman=True) + string(value, huffman=True),
        ),
        ("6.2.3", "a literal never to be indexed, indexed name", b"\x1f\x2b" + string(value)),
        ("6.2.3", "a literal never to be indexed, new name", b"\x10" + string(test) + string(value)),
        (
            "6.2.3",
            "a literal never to be indexed, by Huffman",
            b"\x10" + string(test, huffman=True) + string(value, huffman=True),
        ),
        ("4.4", "an entry larger than the whole table", b"\x40" + string(test) + string(b"x" * 4096)),
    ]:
        yield Case(f"hpack {section}", title, answered(), (whole(pseudo + field),))
    yield Case("hpack 6.3", "a table size update in front", answered(), (whole(b"\x20" + pseudo),))
    yield Case(
        "hpack 6.3", "two table size updates in front", answered(), (whole(b"\x20\x3f\xe1\x1f" + pseudo),)
    )
    yield Case(
        "hpack 4.2",
        "an update in front of the second head",
        answered(stream=3),
        (whole(pseudo), whole(b"\x20" + pseudo, 3)),
    )
    yield Case(
        "hpack 2.2",
        "a field of an earlier stream's table",
        answered(stream=3),
        (whole(pseudo + b"\x40" + string(test) + string(value)), whole(pseudo + b"\xbe", 3)),
    )
    yield Case(
        "hpack 2.2",
        "the table is kept over a refused stream",
        answered(stream=3),
        (
            whole(
                pseudo + b"\x40" + string(b"Upper") + string(value) + b"\x40" + string(test) + string(value)
            ),
            whole(pseudo + b"\xbe", 3),
        ),
    )
    small: tuple[Step, ...] = (
        setting(Setting.HEADER_TABLE_SIZE, 0),
        _decodes_without_table,
        head.get(),
        answer_of(),
        head.get(3),
    )
    yield Case("hpack 4.2", "a client without a table is told so and understood", answered(stream=3), small)


async def _decodes_without_table(client: Client) -> None:
    """From the acknowledgement on the decoder insists on an update, and on a table of 0."""
    await client.until(lambda: client.acks == 2)
    client.decoder = hpack.Decoder()
    client.decoder.max_allowed_table_size = 0


def unpacking_errors(head: Head) -> Iterator[Case]:
    good = head.fields()
    for section, title, octets in [
        ("2.3.3", "an index beyond both tables", b"\xff\x80\x01"),
        ("2.3.3", "a name's index beyond both tables", b"\x7f\x80\x01" + string(b"x")),
        ("6.1", "index 0", b"\x80"),
        ("4.2", "a table size update at the end", b"\x20"),
        ("6.3", "a table size beyond SETTINGS_HEADER_TABLE_SIZE", b"\x3f\xe2\x1f"),
        ("5.1", "an integer that does not end", b"\xff" + b"\x80" * 20 + b"\x01"),
        ("5.1", "an integer cut off", b"\xff\x80"),
        (
            "5.2",
            "Huffman padding longer than 7 bits",
            b"\x00\x85\xf2\xb2\x4a\x84\xff" + b"\x84\x49\x50\x9f\xff",
        ),
        ("5.2", "Huffman padding of zeros", b"\x00\x01x" + b"\x83\x49\x50\x90"),
        ("5.2", "Huffman with EOS", b"\x00\x01x" + b"\x88\xf2\xb2\x4a\x84\xff\xff\xff\xff"),
        ("5.2", "a string longer than its block", b"\x00\x01x\x7e12"),
        ("6.2.2", "a literal without its value", b"\x00\x01x"),
    ]:
        fragment = octets + good if section == "6.3" else good + octets
        yield Case(f"hpack {section}", title, COMPRESSION, (whole(fragment),))
    yield Case(
        "hpack 4.2",
        "a table size update between fields",
        COMPRESSION,
        (whole(good + b"\x20" + literal(b"x", b"y")),),
    )


def cases(head: Head) -> Iterator[Case]:
    for part in (packing, unpacking_errors):
        yield from part(head)
