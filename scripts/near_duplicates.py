"""Measures what `nearkin dedupe` finds: precision and recall on planted near-duplicates.

    cargo build --release -p nearkin
    python scripts/near_duplicates.py IMAGES RUN WORK [--similarity S ...] [--seed N] [--sheets]

Needs Pillow. IMAGES is a folder of JPEG or PNG files, RUN a run whose encoder is used, WORK a folder for
the copies and results. 50 images are drawn with the seed, and a changed copy of each is planted among
all images: ten each of two sizes of crops, a poor JPEG, another brightness and half the resolution.

Recall is the share of the planted copies that are removed for their original, or their original for
them, or both for a third image. Other pairs are images that dedupe removes although nothing was planted:
some sets have near-duplicates of their own, so --sheets shows every removed image beside the one that is
kept for it, to be judged by eye. Precision counts all of them as wrong, so it is a lower bound.
"""

import argparse
import csv
import io
import pathlib
import random
import shutil
import subprocess
import sys

from PIL import Image, ImageDraw, ImageEnhance

ROOT = pathlib.Path(__file__).resolve().parents[1]
ENDS = {".jpg", ".jpeg", ".png"}
PER_KIND = 10


def crop(share):
    def change(image, draw):
        width, height = (round(share * side) for side in image.size)
        left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
        return image.crop((left, top, left + width, top + height)).resize(image.size, Image.BICUBIC)

    return change


def encoded(image, draw):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=draw.randint(20, 40))
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def brightness(image, draw):
    return ImageEnhance.Brightness(image).enhance(draw.choice([0.7, 0.8, 1.2, 1.3]))


def half(image, draw):
    return image.resize((image.width // 2, image.height // 2), Image.LANCZOS)


KINDS = {
    "crop to 90 % of the sides": crop(0.9),
    "crop to 80 % of the sides": crop(0.8),
    "JPEG of quality 20 to 40": encoded,
    "brightness times 0.7 to 1.3": brightness,
    "half the resolution": half,
}


def plant(images, folder, seed):
    """Copies all images and plants the changed ones: {name of the copy: (kind, name of the original)}."""
    shutil.rmtree(folder, ignore_errors=True)
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in ENDS)
    draw = random.Random(seed)
    chosen = draw.sample(paths, PER_KIND * len(KINDS))
    for path in paths:
        copy = folder / "images" / path.relative_to(images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    planted = {}
    for number, path in enumerate(chosen):
        kind = list(KINDS)[number % len(KINDS)]
        image = KINDS[kind](Image.open(path).convert("RGB"), draw)
        copy = folder / "images" / path.relative_to(images).with_name(f"planted-{number:02}.png")
        image.save(copy)
        original = folder / "images" / path.relative_to(images)
        planted[str(copy.resolve())] = (kind, str(original.resolve()))
    return len(paths), planted


def nearkin(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"nearkin {' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout + done.stderr


def groups(table):
    """{removed name: (kept name, similarity)} of a table of dedupe."""
    kept, removed = {}, {}
    with open(table, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["keep"] == "yes":
                kept[row["group"]] = row["name"]
            else:
                removed[row["name"]] = (kept[row["group"]], float(row["similarity"]))
    return removed


def judge(removed, planted):
    """The planted copies that were found, and the pairs that were not planted."""
    keeper = lambda name: removed.get(name, (name,))[0]
    found = {copy for copy, (_, original) in planted.items() if keeper(copy) == keeper(original)}
    explained = set(planted) | {original for _, original in planted.values()}
    source = lambda name: planted[name][1] if name in planted else name
    others = {name: pair for name, pair in removed.items() if source(name) != source(pair[0])}
    assert all(name in explained for name in removed if name not in others)
    return found, others


def sheet(pairs, path, columns=6, side=96):
    """Every removed image beside the one that is kept for it, the least similar first."""
    pairs = sorted(pairs, key=lambda pair: pair[2])
    rows = (len(pairs) + columns - 1) // columns
    page = Image.new("RGB", (columns * (2 * side + 12), max(rows, 1) * (side + 16)), "white")
    draw = ImageDraw.Draw(page)
    for place, (name, kept, similarity) in enumerate(pairs):
        left, top = place % columns * (2 * side + 12), place // columns * (side + 16)
        for offset, image in ((0, kept), (side, name)):
            page.paste(Image.open(image).convert("RGB").resize((side, side)), (left + offset, top))
        draw.text((left, top + side + 2), f"{similarity:.3f} {pathlib.Path(name).stem}", fill="black")
    page.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--similarity", type=float, nargs="+", help="instead of the default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheets", action="store_true", help="write pictures of what was found")
    parser.add_argument("--nearkin", type=pathlib.Path, default=ROOT / "target/release/nearkin")
    parser.add_argument("options", nargs="*", help="more options of dedupe, behind --")
    given = parser.parse_args()

    given.work.mkdir(parents=True, exist_ok=True)
    count, planted = plant(given.images, given.work, given.seed)
    features = given.work / "features.npy"
    print(nearkin(given.nearkin, "embed", given.run, given.work / "images", "--out", features, "--device", "cpu"))
    print(f"{count} images and {len(planted)} planted copies, seed {given.seed}")
    for similarity in given.similarity or [None]:
        table = given.work / f"groups-{similarity or 'default'}.csv"
        bound = [] if similarity is None else ["--similarity", similarity]
        said = nearkin(given.nearkin, "dedupe", features, "--out", table, *bound, *given.options)
        removed = groups(table)
        found, others = judge(removed, planted)
        recall = len(found) / len(planted)
        precision = len(found) / max(len(found) + len(others), 1)
        if similarity is None:
            print(said)
        print(
            f"similarity {similarity or 'default'}: recall {len(found)}/{len(planted)} = {recall:.2f}, "
            f"{len(others)} other pairs, precision at least {precision:.2f}"
        )
        for kind in KINDS:
            copies = [copy for copy, (own, _) in planted.items() if own == kind]
            print(f"  {kind}: {sum(copy in found for copy in copies)}/{len(copies)}")
        if given.sheets:
            name = similarity or "default"
            pairs = [(copy, original, 0.0) for copy, (_, original) in planted.items() if copy not in found]
            sheet(pairs, given.work / f"missed-{name}.png")
            sheet([(name, *pair) for name, pair in others.items()], given.work / f"others-{name}.png")


if __name__ == "__main__":
    main()
