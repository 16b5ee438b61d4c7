"""Trains the same workloads with nearkin, lightly and solo-learn, in turns, and prints how fast they are.

    make bench-peers
    make bench-peers PEERS="--workloads moco --rounds 3 --data PATH --markdown docs/performance.md"

Every run is a process of its own. A round runs every tool once, so that what else the machine does
meets all of them. lightly and solo-learn may choose: one run each with both memory formats, then with 1
and 2 loader workers, and the fastest takes part in the rounds; of the first workload lightly has a row
for each memory format, since its examples leave PyTorch's own. The peers get their numbers from
nearkin's resolved recipe and in each round the first weights of nearkin's network; first losses then
differ by the draw of images, views and queue only, and a row whose median is further off than the
tolerance says so. nearkin's rate is taken from the clock of its metrics.jsonl, its peak memory from wait4.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib
import typing

import numpy
from PIL import Image

import report

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NEARKIN, SYMMETRIC = "nearkin", "nearkin, symmetric"
CIFAR, PHOTOGRAPHS = "CIFAR-10", "photographs"
CIFAR_IMAGES, DRAWN_SMALL, SMALL_SIDE = 50_000, 10_000, 32
LARGE_SIDES, QUALITY = (256, 500), 90
# Nothing but training happens in a run, at one learning rate.
COMMON = [
    "schedule.decay=constant",
    "schedule.warmup_epochs=0",
    "evaluation.every_epochs=0",
    "checkpoint.every_epochs=1000000",
    "checkpoint.every_minutes=1e6",
]
WHOLE_BATCH = ["momentum_encoder.batch_norm_splits=1", "momentum_encoder.shuffle=false"]
MOCO_HEAD = "model.projector=[{width=128,bias=true,relu=true},{width=128,bias=true}]"
SIMCLR_HEAD = 'model.projector=[{width=128,batch_norm="affine",relu=true},{width=128,batch_norm="affine"}]'


@dataclasses.dataclass
class Peer:
    """A tool, its first choice of a memory format and of loader workers, and what it is compared with."""

    tool: str
    label: str
    reference: str = NEARKIN
    memory_format: str = "contiguous"
    # Those among which it may choose.
    formats: tuple = ("contiguous", "channels-last")
    workers: int = 0
    # Whether it looks for a better choice.
    chooses: bool = True
    same_loss: bool = True
    target: typing.Optional[float] = None

    def options(self):
        return ["--memory-format", self.memory_format, "--workers", str(self.workers)]

    def choice(self):
        workers = ("no loader worker", "1 loader worker", "2 loader workers")[self.workers]
        return f"{self.memory_format}, {workers}"


@dataclasses.dataclass
class Workload:
    """A recipe, changed; nearkin's own rows by their labels, each with further changes; the peers."""

    title: str
    recipe: str
    images: str
    steps: int
    changes: list
    peers: list
    references: dict = dataclasses.field(default_factory=lambda: {NEARKIN: []})


def alone(memory_format, target=None):
    label = f"PyTorch alone, {memory_format}, nothing loaded"
    return Peer("compute", label, NEARKIN, memory_format, chooses=False, same_loss=False, target=target)


WORKLOADS = {
    "moco": Workload(
        "MoCo v2, ResNet-18 of width 16, CIFAR-10, batch 128",
        "recipes/moco/cifar10-small.toml",
        CIFAR,
        40,
        [*WHOLE_BATCH, MOCO_HEAD],
        [
            Peer("lightly", "lightly, as in its examples", formats=("contiguous",), target=2.0),
            Peer("lightly", "lightly, channels-last", formats=("channels-last",), target=2.0),
            Peer("solo-learn", "solo-learn, symmetric", SYMMETRIC),
            alone("contiguous"),
            alone("channels-last", target=0.95),
        ],
        {NEARKIN: [], SYMMETRIC: ["method.symmetric=true"]},
    ),
    "simclr": Workload(
        "SimCLR, ResNet-18 of width 16, CIFAR-10, batch 256",
        "recipes/simclr/cifar10-small.toml",
        CIFAR,
        20,
        ["training.batch_size=256", SIMCLR_HEAD],
        [Peer("lightly", "lightly"), Peer("solo-learn", "solo-learn")],
    ),
    "sce": Workload(
        "SCE, ResNet-18 of width 16, CIFAR-10, batch 128",
        "recipes/sce/cifar10-small.toml",
        CIFAR,
        40,
        [*WHOLE_BATCH, MOCO_HEAD],
        [
            Peer("lightly", "lightly, with SCE's loss added"),
            Peer("solo-learn", "solo-learn, ReSSL (it has no SCE)", same_loss=False),
        ],
    ),
    "resnet50": Workload(
        "MoCo v2, ResNet-50, JPEG files at 224 pixels, batch 32",
        "recipes/moco/imagenet.toml",
        PHOTOGRAPHS,
        4,
        [*WHOLE_BATCH, "training.batch_size=32"],
        [Peer("lightly", "lightly"), Peer("solo-learn", "solo-learn, symmetric", SYMMETRIC)],
        {NEARKIN: [], SYMMETRIC: ["method.symmetric=true"]},
    ),
}


def say(line):
    print(line, flush=True)


def picture(random, width, height):
    """Noise of four sizes of grain, so that a JPEG file of it is about as long as a photograph's."""
    image = numpy.zeros((height, width, 3), numpy.float32)
    for cells, weight in ((4, 90), (16, 50), (64, 20), (max(width, height), 6)):
        grain = random.integers(0, 256, (cells, cells, 3), dtype=numpy.uint8)
        grown = Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC)
        image += weight * (numpy.asarray(grown, numpy.float32) / 127.5 - 1)
    return (128 + image).clip(0, 255).astype(numpy.uint8)


def draw_small(folder):
    """Images in CIFAR-10's format, the same in each of the files that have to be there."""
    random = numpy.random.default_rng(0)
    pixels = numpy.stack([picture(random, SMALL_SIDE, SMALL_SIDE) for _ in range(DRAWN_SMALL)])
    labels = random.integers(0, 10, (DRAWN_SMALL, 1), dtype=numpy.uint8)
    records = numpy.concatenate([labels, pixels.transpose(0, 3, 1, 2).reshape(DRAWN_SMALL, -1)], axis=1)
    folder.mkdir()
    for name in [*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"]:
        random.permutation(records).tofile(folder / f"{name}.bin")


def draw_large(folder, count):
    random = numpy.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        width, height = random.integers(LARGE_SIDES[0], LARGE_SIDES[1] + 1, 2).tolist()
        Image.fromarray(picture(random, width, height)).save(folder / f"{number:05}.jpg", quality=QUALITY)


def cifar(given):
    """The folder of the binary files below a given one, or None where nothing is given."""
    if not given:
        return None
    for folder in (pathlib.Path(given), pathlib.Path(given) / "cifar-10-batches-bin"):
        if (folder / "data_batch_1.bin").exists():
            return folder
    sys.exit(f"{given} has no data_batch_1.bin, nor has a folder cifar-10-batches-bin in it")


class Job:
    """One workload on this machine: its images, its plan, and how its tools are run."""

    def __init__(self, name, workload, steps, binary, folder, given):
        self.name, self.workload, self.binary = name, workload, binary
        self.folder = folder / name
        self.folder.mkdir()
        self.batch, draft = self.resolve("draft", [])
        large = workload.images == PHOTOGRAPHS
        self.images = folder / workload.images if large else given or folder / workload.images
        steps = steps or workload.steps
        # As many JPEG files are drawn as one epoch takes.
        self.plan = report.plan(self.batch, steps, self.batch * (steps + 10) if large else CIFAR_IMAGES)
        if not self.images.exists():
            if large:
                say(f"drawing {self.plan.images} JPEG files")
                draw_large(self.images, self.plan.images)
            else:
                say(f"no --data and no NEARKIN_DATA: drawing {DRAWN_SMALL} images in CIFAR-10's format")
                draw_small(self.images)
        draft.unlink()
        every = [f"training.record_every_steps={self.plan.record_every}"]
        self.recipes = {
            label: self.resolve(label, [*every, *changes])[1] for label, changes in workload.references.items()
        }
        self.probes = {}

    def resolve(self, label, changes):
        """The batch size and the file of the recipe with every default filled in."""
        command = [self.binary, "recipe", "check", ROOT / self.workload.recipe, "--resolved"]
        for change in [*COMMON, *self.workload.changes, *changes]:
            command += ["--set", change]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{self.workload.recipe}: {done.stderr.strip()}")
        path = self.folder / f"{label}.toml"
        path.write_text(done.stdout)
        return tomllib.loads(done.stdout)["training"]["batch_size"], path

    def pretrain(self, label, seed, epochs, images, changes=()):
        """Runs nearkin: the records of its steps, the file of its weights and its peak MiB."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            run = pathlib.Path(name) / "run"
            command = [self.binary, "pretrain", self.recipes[label], "--data", self.images, "--out", run]
            command += ["--device", "cpu", "--quiet", "--seed", str(seed), "--epochs", str(epochs)]
            command += ["--limit-images", str(images)]
            for change in changes:
                command += ["--set", change]
            with tempfile.TemporaryFile("w+") as errors:
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                if process.returncode:
                    errors.seek(0)
                    sys.exit(f"nearkin failed in {self.name}: {errors.read().strip()}")
            records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            weights = next((run / "checkpoints").glob("*/model.safetensors")).read_bytes()
        return records, weights, usage.ru_maxrss / 1024

    def probe(self, label, seed):
        """The first loss of a run, the file of its first weights and how many are trained.

        One step at a learning rate that changes nothing; running statistics have no part in training.
        """
        if (label, seed) not in self.probes:
            changes = ["training.record_every_steps=1", "optimizer.learning_rate=1e-30"]
            records, weights, _ = self.pretrain(label, seed, 1, self.batch, changes)
            path = self.folder / f"{label}-{seed}.safetensors"
            path.write_bytes(weights)
            header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
            trained = (
                math.prod(tensor["shape"])
                for name, tensor in header.items()
                if name != "__metadata__" and ".running_" not in name
            )
            loss = next(record["loss"] for record in records if record["kind"] == "step")
            self.probes[label, seed] = (loss, path, sum(trained))
        return self.probes[label, seed]

    def nearkin(self, label, seed):
        plan = self.plan
        loss, _, parameters = self.probe(label, seed)
        records, _, peak = self.pretrain(label, seed, plan.epochs, plan.images)
        return {
            "tool": label,
            "workload": self.name,
            "images_per_second": report.recorded_rate(records, self.batch, plan.warm_up, plan.steps),
            "steps": plan.steps,
            "first_loss": loss,
            "parameters": parameters,
            "peak_mebibytes": peak,
        }

    def peer(self, peer, seed):
        """A peer's report, or None with the reason as a line where it cannot be run."""
        plan = self.plan
        command = [sys.executable, HERE / "train.py", peer.tool, self.name, *peer.options()]
        command += ["--recipe", self.recipes[peer.reference], "--weights", self.probe(peer.reference, seed)[1]]
        command += ["--images", self.images, "--limit-images", str(plan.images), "--seed", str(seed)]
        command += ["--warm-up", str(plan.warm_up), "--steps", str(plan.steps)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            return None, f"{peer.tool}: could not be started: {reason}"
        return json.loads(done.stdout.splitlines()[-1]), None

    def choose(self, peer):
        """The peer at its fastest; what was tried, as a line; None in place of a peer that cannot run."""
        tried = {}

        def attempt(**changes):
            candidate = dataclasses.replace(peer, **changes)
            result, reason = self.peer(candidate, 0)
            if result:
                rate = result["images_per_second"]
                tried[candidate.choice()] = (rate, candidate)
                say(f"{self.name}, trying {peer.label}, {candidate.choice()}: {rate:.3g} images/s")
            return reason

        best = lambda: max(tried.values(), key=lambda pair: pair[0])[1]
        reasons = [attempt(memory_format=choice) for choice in peer.formats]
        if not tried:
            return None, reasons[0]
        memory_format = best().memory_format
        for workers in (1, 2):
            attempt(memory_format=memory_format, workers=workers)
        rates = "; ".join(f"{choice}: {rate:.3g}" for choice, (rate, _) in tried.items())
        return best(), f"{peer.label} was fastest with {best().choice()} (images/s of one run each: {rates})."

    def run(self, rounds, tools):
        """The rows of all rounds, and lines to go with them."""
        notes, peers = [], []
        for peer in self.workload.peers:
            if peer.tool not in tools:
                continue
            if peer.chooses:
                peer, note = self.choose(peer)
                notes.append(note)
                say(note)
            if peer:
                peers.append(peer)
        needed = {NEARKIN, *(peer.reference for peer in peers)}
        own = {label: report.Row(label) for label in self.recipes if label in needed}
        others = [
            report.Row(peer.label, reference=own[peer.reference], same_loss=peer.same_loss, target=peer.target)
            for peer in peers
        ]
        for number in range(rounds):
            for label, row in own.items():
                self.record(number, row, self.nearkin(label, number), notes)
            for peer, row in zip(peers, others):
                self.record(number, row, *self.peer(peer, number), notes=notes)
        complete = [row for row in others if len(row.runs) == rounds]
        return [*own.values(), *complete], notes

    def record(self, number, row, result, reason=None, notes=()):
        if result is None:
            say(reason)
            notes.append(reason)
            return
        row.runs.append(result)
        say(f"round {number + 1}: {json.dumps(result | {'tool': row.label})}")


def machine():
    """What the numbers were measured on and with, as one line."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ("torch", "torchvision", "lightly", "solo-learn", "pytorch-lightning")
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return (
        f"{datetime.date.today()}: {model}, {os.cpu_count()} cores, {memory:.0f} GiB, load at the start {load}; "
        f"nearkin {revision.stdout.strip()}, {', '.join(versions)}, Python {sys.version.split()[0]}."
    )


def names(known):
    def parse(text):
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(known)}")
        return chosen

    return parse


def count(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return number


def main():
    tools = ["lightly", "solo-learn", "compute"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--steps", type=count, help="of every run; if absent, 40, for larger jobs fewer")
    parser.add_argument("--workloads", type=names(WORKLOADS), default=list(WORKLOADS), metavar="A,B")
    parser.add_argument("--tools", type=names(tools), default=tools, metavar="A,B", help="beside nearkin")
    parser.add_argument("--data", default=os.environ.get("NEARKIN_DATA"), help="CIFAR-10, binary version")
    parser.add_argument("--nearkin", type=pathlib.Path, default=ROOT / "target/release/nearkin")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the tables between this file's markers")
    arguments = parser.parse_args()
    if not arguments.nearkin.exists():
        sys.exit(f"there is no {arguments.nearkin}: cargo build --release -p nearkin")
    if arguments.markdown:
        # Before hours of measuring, not after.
        report.replaced(arguments.markdown.read_text(), "")

    given, about, parts = cifar(arguments.data), machine(), []
    say(about)
    with tempfile.TemporaryDirectory() as name:
        for workload in arguments.workloads:
            job = Job(
                workload,
                WORKLOADS[workload],
                arguments.steps,
                arguments.nearkin.resolve(),
                pathlib.Path(name),
                given,
            )
            rows, notes = job.run(arguments.rounds, arguments.tools)
            how = (
                f"{arguments.rounds} rounds of {job.plan.steps} steps after {job.plan.warm_up}; first losses are "
                f"within {100 * report.TOLERANCE:.0f} % of nearkin's where a row says nothing else."
            )
            if job.workload.images == CIFAR and not given:
                notes.append("The images were drawn, since no CIFAR-10 was given.")
            parts.append((f"{job.workload.title}. {how}", rows, notes))
            say(f"\n{parts[-1][0]}\n{report.text(rows)}" + "".join(f"{note}\n" for note in notes))
    if arguments.markdown:
        tables = [about]
        for title, rows, notes in parts:
            tables += [f"**{title}**", report.markdown(rows).strip(), *notes]
        document = report.replaced(arguments.markdown.read_text(), "\n\n".join(tables))
        arguments.markdown.write_text(document)


if __name__ == "__main__":
    main()
