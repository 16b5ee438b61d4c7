"""Writes JPEG files of kinds that Pillow cannot write: any sampling factors, scans and restarts.

The files are plain, not well compressed: one quantization table with equal entries, and for each scan
Huffman codes of equal length for the symbols that it has.
"""

import struct

import numpy as np


def _zigzag_place(at):
    row, column = divmod(at, 8)
    return row + column, row if (row + column) % 2 else column


ZIGZAG = sorted(range(64), key=_zigzag_place)
_STEPS = np.arange(8)
COSINES = np.cos((2 * _STEPS[None, :] + 1) * _STEPS[:, None] * np.pi / 16) / 2
COSINES[0] /= np.sqrt(2)


def progressive_scans(components):
    """Scans as libjpeg's default: spectral selection and successive approximation."""
    alone = [[component] for component in range(components)]
    return [
        (list(range(components)), 0, 0, 0, 1),
        *((part, 1, 5, 0, 2) for part in alone),
        *((part, 6, 63, 0, 2) for part in alone),
        *((part, 1, 63, 2, 1) for part in alone),
        (list(range(components)), 0, 0, 1, 0),
        *((part, 1, 63, 1, 0) for part in alone),
    ]


def write(planes, sampling, scans=None, *, progressive=False, ids=None, restart=0, adobe=None,
          jfif=False, step=8, height=None, precision=8, frame_marker=None, huffman=True, headers=b""):
    """The bytes of a JPEG.

    `planes` are the components at the size of the image, `sampling` their factors (across, down).
    A scan lists its components; in a progressive file it is such a list with the first and the last
    coefficient and the high and low bit. `restart` is the number of MCUs between restart markers,
    `adobe` the color transform of an Adobe marker. `height`, `precision`, `frame_marker`, `huffman`
    and `headers` are for files that have to be refused.
    """
    rows, columns = planes[0].shape
    ids = ids or list(range(1, len(planes) + 1))
    scans = scans or [list(range(len(planes)))]
    h_max, v_max = np.max(sampling, axis=0)
    mcus = -(-rows // (8 * v_max)), -(-columns // (8 * h_max))
    components = [
        _Component(plane, factors, (h_max, v_max), mcus, step)
        for plane, factors in zip(planes, sampling)
    ]
    out = bytearray(b"\xff\xd8")

    def segment(marker, body):
        out.extend(bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body)

    if jfif:
        segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    if adobe is not None:
        segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([adobe]))
    out.extend(headers)
    segment(0xDB, b"\0" + bytes([step]) * 64)
    entries = b"".join(bytes([id, h << 4 | v, 0]) for id, (h, v) in zip(ids, sampling))
    frame = struct.pack(">BHHB", precision, rows if height is None else height, columns, len(planes))
    segment(frame_marker or (0xC2 if progressive else 0xC0), frame + entries)
    if restart:
        segment(0xDD, struct.pack(">H", restart))
    for scan in scans:
        members, parameters = (scan[0], scan[1:]) if progressive else (scan, (0, 63, 0, 0))
        stream = _scan_symbols(components, members, parameters, mcus, restart, progressive)
        codes = {}
        for table, place in ("dc", 0x00), ("ac", 0x10):
            symbols = sorted({item[1] for item in stream if item and item[0] == table})
            if symbols:
                length = len(symbols).bit_length()
                counts = [len(symbols) if place == length else 0 for place in range(1, 17)]
                if huffman:
                    segment(0xC4, bytes([place, *counts, *symbols]))
                codes.update({(table, symbol): (code, length) for code, symbol in enumerate(symbols)})
        first, last, high, low = parameters
        chosen = b"".join(bytes([ids[member], 0]) for member in members)
        segment(0xDA, bytes([len(members)]) + chosen + bytes([first, last, high << 4 | low]))
        out.extend(_coded(stream, codes))
    return bytes(out + b"\xff\xd9")


class _Component:
    """Coefficients in zigzag order, [rows, columns, 64] of blocks in whole MCUs."""

    def __init__(self, plane, factors, largest, mcus, step):
        (self.across, self.down), (h_max, v_max) = factors, largest
        rows, columns = plane.shape
        self.own_rows = -(-(-(-rows * self.down // v_max)) // 8)
        self.own_columns = -(-(-(-columns * self.across // h_max)) // 8)
        whole = np.pad(np.asarray(plane, float), (
            (0, mcus[0] * 8 * v_max - rows), (0, mcus[1] * 8 * h_max - columns)), mode="edge")
        samples = _averaged(_averaged(whole, mcus[0] * 8 * self.down).T, mcus[1] * 8 * self.across).T
        blocks = np.clip(np.rint(samples), 0, 255) - 128
        blocks = blocks.reshape(mcus[0] * self.down, 8, mcus[1] * self.across, 8).swapaxes(1, 2)
        coefficients = np.rint(COSINES @ blocks @ COSINES.T / step).astype(int)
        self.blocks = coefficients.reshape(*coefficients.shape[:2], 64)[:, :, ZIGZAG]


def _averaged(values, count):
    """`count` means of the rows, each over an equal part of them."""
    edges = np.linspace(0, len(values), count + 1)
    places = np.arange(len(values))
    weights = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    weights = weights.clip(0)
    return weights / weights.sum(axis=1, keepdims=True) @ values


def _scan_symbols(components, members, parameters, mcus, restart, progressive):
    """What a scan codes: (table, symbol, extra bits), and None for a restart marker."""
    if len(members) == 1:
        only = components[members[0]]
        units = [[(members[0], row, column)]
                 for row in range(only.own_rows) for column in range(only.own_columns)]
    else:
        units = [
            [(member, row * part.down + y, column * part.across + x)
             for member, part in ((member, components[member]) for member in members)
             for y in range(part.down) for x in range(part.across)]
            for row in range(mcus[0]) for column in range(mcus[1])
        ]
    stream, before = [], {}
    for number, unit in enumerate(units):
        if restart and number and number % restart == 0:
            stream.append(None)
            before = {}
        for member, row, column in unit:
            block = [int(value) for value in components[member].blocks[row, column]]
            stream += _block_symbols(block, before.get(member, 0), parameters, progressive)
            before[member] = block[0] >> parameters[3]
    return stream


def _magnitude(value):
    size = abs(value).bit_length()
    return size, (value if value > 0 else value + (1 << size) - 1, size)


def _block_symbols(block, before, parameters, progressive):
    first, last, high, low = parameters
    if first == 0 and high:
        return [(None, None, [(block[0] >> low & 1, 1)])]
    symbols = []
    if first == 0:
        size, bits = _magnitude((block[0] >> low) - before)
        symbols.append(("dc", size, [bits]))
        if progressive:
            return symbols
        first = 1
    values = [(abs(value) >> low) * (1 if value > 0 else -1) for value in block]
    # A coefficient that earlier scans have sent has its next bit behind the symbol before it.
    is_known = [high and abs(value) > 1 for value in values]
    new = [place for place in range(first, last + 1) if values[place] and not is_known[place]]
    end = new[-1] if new else first - 1
    run, later = 0, []
    for place in range(first, end + 1):
        if not values[place]:
            run += 1
            continue
        while run > 15:
            symbols.append(("ac", 0xF0, later))
            run, later = run - 16, []
        if is_known[place]:
            later.append((abs(values[place]) & 1, 1))
            continue
        size, bits = (1, (int(values[place] > 0), 1)) if high else _magnitude(values[place])
        symbols.append(("ac", run << 4 | size, [bits, *later]))
        run, later = 0, []
    if end < last:
        later += [(abs(values[place]) & 1, 1) for place in range(end + 1, last + 1) if is_known[place]]
        symbols.append(("ac", 0, later))
    return symbols


def _coded(stream, codes):
    out, bits, restarts = bytearray(), [], 0

    def flush():
        nonlocal bits
        bits += [1] * (-len(bits) % 8)
        coded = np.packbits(np.array(bits, np.uint8)).tobytes()
        out.extend(coded.replace(b"\xff", b"\xff\0"))
        bits = []

    def put(value, count):
        bits.extend(value >> place & 1 for place in reversed(range(count)))

    for item in stream:
        if item is None:
            flush()
            out.extend([0xFF, 0xD0 + restarts % 8])
            restarts += 1
            continue
        table, symbol, extra = item
        if table:
            put(*codes[table, symbol])
        for value, count in extra:
            put(value, count)
    flush()
    return bytes(out)
