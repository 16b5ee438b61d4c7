"""Times two MoCo v2 views of every image by nearkin, torchvision and lightly, in turns.

    cargo build --release -p nearkin-augment --example loader
    python scripts/bench_augment.py [ROUNDS [SECONDS]]

Needs torch, torchvision, numpy and scikit-learn, whose two sample photographs are the images: cut into
JPEG files of 500 x 375 pixels at quality 90, and scaled to 32 x 32 as files of CIFAR-10's format.
lightly takes part where it is installed. Every run is a process of its own with one thread, but for
the rows of nearkin with loader threads. What is timed of nearkin is all of training's host path:
reading, order, views and batches; of the others, decoding and views, without a DataLoader.
"torchvision" is the usual form on PIL images (with MoCo's blur by Pillow), "tensors" torchvision's v2
transforms on tensors. CPU time is the user's and the system's, of the loop; for nearkin it includes the
start of the process.
"""

import io
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "target/release/examples/loader"
PHOTOGRAPHS, SMALL = 64, 10_000
WIDTH, HEIGHT, QUALITY = 500, 375, 90
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def draw(folder):
    """Windows of two photographs, every other one mirrored."""
    import numpy
    from PIL import Image
    from sklearn.datasets import load_sample_images

    random = numpy.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]

    def window(number):
        photograph = photographs[number % 2]
        left = int(random.integers(0, photograph.width - WIDTH + 1))
        top = int(random.integers(0, photograph.height - HEIGHT + 1))
        image = photograph.crop((left, top, left + WIDTH, top + HEIGHT))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number // 2 % 2 else image

    (folder / "jpeg").mkdir()
    for number in range(PHOTOGRAPHS):
        window(number).save(folder / "jpeg" / f"{number:03}.jpg", quality=QUALITY)
    small = []
    for number in range(SMALL // 16):
        # 16 of a window, each as large as in the sets of small images.
        image = numpy.asarray(window(number).resize((128, 128), Image.Resampling.BILINEAR))
        small += [image[y : y + 32, x : x + 32] for y in range(0, 128, 32) for x in range(0, 128, 32)]
    small = numpy.stack(small).transpose(0, 3, 1, 2).reshape(len(small), -1)
    records = numpy.concatenate([numpy.zeros((len(small), 1), numpy.uint8), small], axis=1)
    cifar = folder / "cifar-10-batches-bin"
    cifar.mkdir()
    for name in [*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"]:
        (cifar / f"{name}.bin").write_bytes(random.permutation(records).tobytes())


class PillowBlur:
    """The blur of MoCo's code: a box filter repeated, in place of a Gaussian."""

    def __call__(self, image):
        import random

        from PIL import ImageFilter

        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def views(way, size):
    """A function from an encoded or decoded PIL image to two tensors."""
    import torch
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    if way == "lightly":
        from lightly.transforms import MoCoV2Transform

        return MoCoV2Transform(input_size=size)
    if way.startswith("torchvision"):
        of = v1
        blur = PillowBlur()
        end = [v1.ToTensor()]
    else:
        of = v2
        blur = v2.GaussianBlur(13, (0.1, 2.0))
        end = [v2.ToDtype(torch.float32, scale=True)]
    one = of.Compose(
        [
            of.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            of.RandomApply([of.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            of.RandomGrayscale(p=0.2),
            of.RandomApply([blur], p=0.5),
            of.RandomHorizontalFlip(),
            *end,
            of.Normalize(MEAN, STD),
        ]
    )
    return lambda image: [one(image), one(image)]


def cpu_seconds(whose):
    usage = resource.getrusage(whose)
    return usage.ru_utime + usage.ru_stime


def measure(way, kind, folder, seconds):
    """Runs one way in this process; prints images per second of wall time and of CPU time."""
    import numpy
    import torch
    import torchvision
    from PIL import Image

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tensors = way == "tensors"
    if kind == "cifar":
        files = sorted((folder / "cifar-10-batches-bin").glob("data_batch_*"))
        records = numpy.concatenate([numpy.frombuffer(file.read_bytes(), numpy.uint8) for file in files])
        images = records.reshape(-1, 3073)[:, 1:].reshape(-1, 3, 32, 32)
        inputs = [image if tensors else image.transpose(1, 2, 0).copy() for image in images]
        read = torch.from_numpy if tensors else Image.fromarray
        inputs = [image.copy() for image in inputs]
    else:
        inputs = sorted((folder / "jpeg").iterdir())
        if tensors:
            read = lambda path: torchvision.io.decode_image(torchvision.io.read_file(str(path)))
        else:
            read = lambda path: Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    make = views(way, 32 if kind == "cifar" else 224)
    for image in inputs[:4]:
        make(read(image))
    begun, before, count = time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF), 0
    while time.perf_counter() - begun < seconds:
        make(read(inputs[count % len(inputs)]))
        count += 1
    cpu = cpu_seconds(resource.RUSAGE_SELF) - before
    print(count / (time.perf_counter() - begun), count / cpu)


def nearkin(kind, workers, folder, seconds, rate):
    """As many images as take about that long; the same two numbers."""
    path, size = (folder / "cifar-10-batches-bin", 32) if kind == "cifar" else (folder / "jpeg", 224)
    images = max(int(rate * seconds), 64)
    before = cpu_seconds(resource.RUSAGE_CHILDREN)
    command = [EXAMPLE, path, str(size), str(workers), str(images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(done.stdout), images / (cpu_seconds(resource.RUSAGE_CHILDREN) - before)]


def python(way, kind, folder, seconds):
    script = [sys.executable, __file__, "--measure", way, kind, str(folder), str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:]
        print(f"{way}: left out ({' '.join(reason)})", file=sys.stderr)
        return None
    return [float(cell) for cell in done.stdout.split()[-2:]]


def main():
    if len(sys.argv) == 6 and sys.argv[1] == "--measure":
        way, kind, folder, seconds = sys.argv[2:]
        measure(way, kind, pathlib.Path(folder), float(seconds))
        return
    rounds, seconds = [*map(float, sys.argv[1:]), *[5, 4][len(sys.argv) - 1 :]]
    if not EXAMPLE.exists():
        sys.exit("build it first: cargo build --release -p nearkin-augment --example loader")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        draw(folder)
        sizes = [file.stat().st_size for file in (folder / "jpeg").iterdir()]
        print(f"JPEG files of {statistics.mean(sizes) / 1024:.0f} KiB on average; load {os.getloadavg()}")
        results = {}
        rates = {"cifar": 5000.0, "jpeg": 100.0}
        for _ in range(int(rounds)):
            for kind in rates:
                for workers in (0, 1, 2):
                    row = nearkin(kind, workers, folder, seconds, rates[kind])
                    rates[kind] = row[0] if workers == 0 else rates[kind]
                    results.setdefault((kind, f"nearkin, {workers} loader threads"), []).append(row)
                for way in ("torchvision", "tensors", "lightly"):
                    row = python(way, kind, folder, seconds)
                    if row:
                        results.setdefault((kind, way), []).append(row)
        print(f"load at the end {os.getloadavg()}; {int(rounds)} rounds in turns")
    print(f"{'images/s, two views each':34} {'median':>8} {'lowest':>8} {'highest':>8} {'per CPU second':>24}")
    for (kind, way), rows in results.items():
        cells = [f"{statistics.median(c):8.0f} {min(c):8.0f} {max(c):8.0f}" for c in zip(*rows)]
        print(f"{kind:6} {way:26}  {'   '.join(cells)}")


if __name__ == "__main__":
    main()
