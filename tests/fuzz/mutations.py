"""How files are damaged and crafted.

Each function takes the bytes of an honest file, a seeded `random.Random`, and another honest file.
"""

import gzip
import io
import json
import pickletools
import struct
import zipfile
import zlib

from tests.fuzz.canary import PAYLOADS

_SIZES = (
    0,
    1,
    2**7,
    2**15 - 1,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
_EDGE = 600
"""Bytes at either end of a file where its headers and directories lie."""


def _place(data, rng):
    """Return a place in a file, every second time near one of its ends."""
    end = len(data)
    return (
        rng.choice(
            [
                rng.randrange(end),
                rng.randrange(end),
                rng.randrange(min(_EDGE, end)),
                rng.randrange(max(0, end - _EDGE), end),
            ]
        )
        if end
        else 0
    )


def _block(data, rng):
    start = _place(data, rng)
    return start, min(len(data), start + rng.choice((1, 4, 16, 64, 512, 4096)))


def flip(data, rng, _other):
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data, rng, _other):
    return data[: _place(data, rng)]


def splice(data, rng, other):
    return data[: _place(data, rng) + 1] + other[_place(other, rng) :]


def swap(data, rng, _other):
    (a, b), (c, d) = sorted([_block(data, rng), _block(data, rng)])
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:] if b <= c else data


def repeat(data, rng, _other):
    start, end = _block(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 2, 3000)) + data[end:]


def remove(data, rng, _other):
    start, end = _block(data, rng)
    return data[:start] + data[end:]


def declare(data, rng, _other):
    """Overwrite some bytes with a number that a size might be."""
    size, start = rng.choice((1, 2, 4, 8)), _place(data, rng)
    number = rng.choice(_SIZES) % 2 ** (8 * size)
    return (
        data[:start] + number.to_bytes(size, rng.choice(("little", "big"))) + data[start + size :]
    )


_CHANGES = (flip, flip, truncate, splice, swap, repeat, remove, declare, declare)


def damaged(data, rng, other):
    """Return a file with some of its bytes changed."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        data = rng.choice(_CHANGES)(data, rng, other) or b"\0"
    return data


def packed(data, rng, other):
    """Return a gzip file that is damaged inside or outside."""
    if rng.random() < 0.5:
        return damaged(data, rng, other)
    return gzip.compress(damaged(gzip.decompress(data), rng, gzip.decompress(other)), 1, mtime=0)


def png(data, rng, other):
    """Return a damaged PNG, mostly with checksums that fit: else no decoder sees the damage."""
    changed = damaged(data, rng, other)
    return changed if rng.random() < 0.3 else _with_checksums(changed)


def _with_checksums(data):
    place, changed = 8, bytearray(data)
    while place + 12 <= len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        end = place + 8 + size
        if end + 4 > len(data):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(changed)


# Pickles.


def _borders(data):
    """Return where the opcodes of a pickle begin, and its end."""
    stream = io.BytesIO(data)
    places = [place for _, _, place in pickletools.genops(stream)]
    return [*places, stream.tell()]


def pickled(data, rng, _other=b""):
    """Return a pickle with a payload, or with opcodes put in, left out, repeated or exchanged."""
    places = _borders(data)
    at = rng.randrange(1, len(places) - 1)
    start, end = places[at], places[at + 1]
    payload = PAYLOADS[rng.choice(sorted(PAYLOADS))]
    deep = rng.choice((10, 1000, 3000))
    changes = {
        "a payload, and on": lambda: data[:start] + payload + b"0" + data[start:],
        "a payload for what is at the end": lambda: data[: places[-2]] + payload + b".",
        "a payload beside what is there": lambda: data[: places[-2]] + payload + b"\x86.",
        "a payload for an opcode": lambda: data[:start] + payload + data[end:],
        "left out": lambda: data[:start] + data[end:],
        "repeated": lambda: data[:end] + data[start:end] * deep + data[end:],
        "another opcode": lambda: data[:start] + bytes([rng.choice(_OPCODES)]) + data[start + 1 :],
        "an opcode more": lambda: data[:start] + bytes([rng.choice(_OPCODES)]) + data[start:],
        "nested": lambda: data[:start] + rng.choice((b"(", b"]", b"}", b")")) * deep + data[start:],
        "nested and closed": lambda: data[: places[-2]] + b"\x85" * deep + b".",
        "in dictionaries": lambda: (
            data[:2] + b"}X\x05\0\0\0model" * deep + data[2 : places[-2]] + b"s" * deep + b"."
        ),
        "damaged": lambda: damaged(data, rng, data),
    }
    return changes[rng.choice(sorted(changes))]()


_OPCODES = [ord(each.code) for each in pickletools.opcodes]


def legacy(data, rng, other):
    """Return a file of torch.save before zip files: the fourth of its pickles changed, or any bytes."""
    if rng.random() < 0.3:
        return damaged(data, rng, other)
    start = 0
    for _ in range(3):
        start += _borders(data[start:])[-1]
    end = start + _borders(data[start:])[-1]
    return data[:start] + pickled(data[start:end], rng) + data[end:]


# Zip files.


def members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(contents, packing=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content, packing)
    return stream.getvalue()


def torch_zip(data, rng, other):
    """Return a file of torch.save: its pickle or another member changed, packed, or any bytes."""
    if rng.random() < 0.3:
        return damaged(data, rng, other)
    contents = members(data)
    name = next(name for name in contents if name.endswith("data.pkl"))
    if rng.random() < 0.8:
        contents[name] = pickled(contents[name], rng)
    else:
        contents = _other_members(contents, rng)
    return zipped(
        contents, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    )


def _other_members(contents, rng):
    name = rng.choice(sorted(contents))
    how = rng.choice(("damaged", "missing", "longer", "elsewhere", "a program"))
    if how == "damaged":
        contents[name] = damaged(contents[name] or b"\0", rng, contents[name] or b"\0")
    elif how == "longer":
        contents[name] += bytes(2**22)
    elif how == "elsewhere":
        contents[f"../{name}"] = contents.pop(name)
    elif how == "a program":
        contents[name.replace("data.pkl", "constants.pkl")] = PAYLOADS["a call"] + b"."
    else:
        del contents[name]
    return contents


def npz(data, rng, other):
    """Return an `.npz` file: one of its arrays changed, others there, or any bytes."""
    if rng.random() < 0.3:
        return damaged(data, rng, other)
    contents = members(data)
    if rng.random() < 0.7:
        name = rng.choice(sorted(contents))
        contents[name] = npy(contents[name], rng, contents[name])
    else:
        contents = _other_members(contents, rng)
    return zipped(contents, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def npy(data, rng, other):
    """Return an `.npy` file with another header, an array of objects that are payloads, or any bytes."""
    how = rng.random()
    if how < 0.4:
        return damaged(data, rng, other)
    if how < 0.5:
        payload = PAYLOADS[rng.choice(sorted(PAYLOADS))] + b"."
        return _npy("|O", "(1, 8, 8)", payload)
    body = data[10 + struct.unpack("<H", data[8:10])[0] :]
    sizes = [-1, -4, 0, 1, 4, 6, 10, 12, 2**20, 2**40, 2**63, 10**30]
    shape = tuple(rng.choice(sizes) for _ in range(rng.choice((0, 1, 3, 4, 4, 5, 40))))
    text = rng.choice((str(shape), str(shape), "(" * 300 + ")" * 300, "'four'", "(6, 10, 12, 3)"))
    descr = rng.choice(
        ("|u1", "<f4", ">u2", "<f8", "<f2", "<c16", "|V7", "<U9", "|b1", "<M8[s]", "|u1, |O")
    )
    return _npy(descr, text, body, rng.choice(("True", "False", "None")))


def _npy(descr, shape, body, fortran="False"):
    header = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def safetensors(data, rng, other):
    """Return a safetensors file: another entry in its header, a header nested deeply, or any bytes."""
    if rng.random() < 0.4:
        return damaged(data, rng, other)
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    entry = header[rng.choice(sorted(header))]
    numbers = [-1, 0, 1, 2, 3, 8, 24, 2**31, 2**40, 2**63, 1.5, None, "two"]
    entry[rng.choice(("shape", "data_offsets"))] = [
        rng.choice(numbers) for _ in range(rng.choice((0, 1, 2, 2, 3, 200)))
    ]
    if rng.random() < 0.4:
        entry["dtype"] = rng.choice(
            ("F32", "F64", "BF16", "F8_E4M3", "I64", "BOOL", "U16", "os.system", "F4")
        )
    text = json.dumps(header)
    if rng.random() < 0.2:
        text = text[:-1] + ', "deep": ' + "[" * 3000 + "]" * 3000 + "}"
    body = data[8 + size :]
    return struct.pack("<Q", len(text) + rng.choice((0, 0, 0, -1, 2**40))) + text.encode() + body
