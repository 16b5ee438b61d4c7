#!/usr/bin/env python3
"""Writes fuzz/seeds: for every target a few small sound inputs to begin with.

All of them are made here or taken from the fixtures of the tests; none is of a published set. The
same call always writes the same bytes.
"""

import csv
import hashlib
import io
import json
import pathlib
import shutil
import struct
import tarfile
import zlib

ROOT = pathlib.Path(__file__).resolve().parent
FIXTURES = ROOT.parent / "crates/nearkin-data/tests/fixtures"


def images() -> dict[str, bytes]:
    stored = zlib.decompress((FIXTURES / "images.zlib").read_bytes())
    cases = json.loads((FIXTURES / "images.json").read_text())
    return {case["name"]: stored[case["offset"] :][: case["bytes"]] for case in cases}


def pickles() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(FIXTURES.glob("pickle-*.pkl"))}


def archive(members: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    # Without the zeros that fill the last record, which would only slow the search down.
    return out.getvalue().rstrip(b"\0") + bytes(1024)


def idx(shape: list[int], code: int = 8, element_bytes: int = 1) -> bytes:
    length = element_bytes
    for side in shape:
        length *= side
    header = bytes([0, 0, code, len(shape)]) + b"".join(struct.pack(">I", side) for side in shape)
    return header + bytes(value % 251 for value in range(length))


def packed(sizes: list[tuple[int, int]]) -> bytes:
    """Two classes; of the images the last is in the test split and has no label."""
    fixed = len(set(sizes)) == 1
    pixels = b"".join(bytes(3 * width * height) for width, height in sizes)
    table = b"".join(struct.pack("<I", len(name)) + name for name in [b"cat", b"dog"])
    labels = [number % 2 for number in range(len(sizes) - 1)] + [2**32 - 1]
    table += b"".join(struct.pack("<I", label) for label in labels)
    begin = 0
    for width, height in [] if fixed else sizes:
        table += struct.pack("<QII", begin, width, height)
        begin += 3 * width * height
    width, height = sizes[0] if fixed else (0, 0)
    header = b"nkpacked" + struct.pack(
        "<IIQQIIQQ", 1, 2, len(sizes) - 1, 1, width, height, len(pixels), len(table)
    )
    header += hashlib.sha256(pixels).digest()
    return header + hashlib.sha256(header + table).digest() + pixels + table


def table(rows: list[list[str]], separator: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows(rows)
    return out.getvalue().encode()


def shards() -> dict[str, bytes]:
    image = images()["colour.png"]
    return {
        "labels.tar": archive({"a/1.png": image, "a/1.cls": b"3", "a/2.jpg": b"x", "a/2.cls": b"cat"}),
        "json.tar": archive({"1.json": b'{"label": "cat"}', "1.png": image, "2.txt": b"skipped"}),
        "long.tar": archive({"folder/" + "n" * 120 + ".png": image}),
        "pax.tar": archive({"é" * 60 + ".1.png": image, "._a.png": b"x"}, tarfile.PAX_FORMAT),
        "unsorted.tar": archive({"b.png": image, "a.txt": b"dog", "b.cls.txt": b"-1", "a.png": image}),
    }


def seeds() -> dict[str, dict[str, bytes]]:
    record = bytes(range(256)) * 12
    columns = [["id", "label", "is_valid", "x"], ["1", "a|b", "True", "line\nbreak"]]
    columns += [["2", "-1.0", "0", ""]]
    rows = [["path", "label"], ["a b.png", 'cat, "big"'], ["c/d.jpg", "dog"]]
    return {
        "cifar": {
            "cifar10.bin": b"\x03" + record,
            "cifar100.bin": b"\x03\x2a" + record,
            "binary.tar": archive({"c/test_batch.bin": b"\x03" + record + b"\x09" + record}),
            **pickles(),
        },
        "idx": {
            "labels": idx([5]),
            "grey": idx([2, 4, 3]),
            "colour": idx([2, 2, 2, 3]),
            "columns": idx([2, 8], 0x0C, 4),
        },
        "image": images(),
        "list": {
            "plain.txt": b"a.png 3\nb/c.jpg 0\n\nd.webp\n",
            "table.csv": table(rows, ","),
            "table.tsv": table(rows, "\t"),
            "columns.csv": table(columns, ","),
            "other.csv": table(columns, ";"),
            "annotations.txt": b"val_0.JPEG\tn01443537\t0\t32\t44\t62\n",
        },
        "packed": {"fixed": packed([(2, 2)] * 3), "mixed": packed([(2, 2), (3, 1), (1, 4)])},
        "pickle": pickles(),
        "shards": shards(),
        "voc": {"split.txt": b"000005\n000007\n", "class.txt": b"000005  1\n000007 -1\r\n000009  0\n"},
    }


def main() -> None:
    for target, files in seeds().items():
        folder = ROOT / "seeds" / target
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
