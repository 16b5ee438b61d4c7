"""Times k-NN classification by nearkin, scikit-learn and lightly on the same features, in turns.

    cargo build --release -p nearkin-eval --example knn_memory
    python scripts/bench_knn.py [QUERIES BANK LENGTH ROUNDS]

Needs numpy and scikit-learn; lightly takes part where it is installed. Every run is a process of its
own, so that its peak memory is its own; features are drawn around a centre per class. Memory is what
a process has beyond what it has once its queries (nearkin) or queries and bank (the others) are read.
"""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "target/release/examples/knn_memory"
CLASSES, NEIGHBOURS, TEMPERATURE = 10, 200, 0.1


def draw(folder, queries, bank, length):
    import numpy

    random = numpy.random.default_rng(0)
    centres = random.standard_normal((CLASSES, length), dtype=numpy.float32)
    for name, count in (("queries", queries), ("bank", bank)):
        labels = random.integers(0, CLASSES, count)
        rows = 0.1 * centres[labels] + random.standard_normal((count, length), dtype=numpy.float32)
        rows /= numpy.linalg.norm(rows, axis=1, keepdims=True)
        rows.astype("<f4").tofile(folder / f"{name}.f32")
        labels.astype("<i8").tofile(folder / f"{name}.i64")
    (folder / "length").write_text(str(length))


def status(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def measure(way, folder):
    """Runs one way in this process and prints peak memory (MiB), seconds and accuracy."""
    import numpy

    length = int((folder / "length").read_text())
    rows = lambda name: numpy.fromfile(folder / f"{name}.f32", "<f4").reshape(-1, length)
    labels = lambda name: numpy.fromfile(folder / f"{name}.i64", "<i8")
    (queries, truth), (bank, of) = [(rows(name), labels(name)) for name in ("queries", "bank")]
    if way == "scikit-learn":
        from sklearn.neighbors import KNeighborsClassifier

        def run():
            weights = lambda distance: numpy.exp((1 - distance) / TEMPERATURE)
            model = KNeighborsClassifier(NEIGHBOURS, weights=weights, metric="cosine", algorithm="brute", n_jobs=-1)
            return (model.fit(bank, of).predict(queries) == truth).mean()

    else:
        import importlib.util

        import torch

        # The file alone: its package wants more than it needs.
        package = pathlib.Path(importlib.util.find_spec("lightly").origin).parent
        spec = importlib.util.spec_from_file_location("knn", package / "utils/benchmarking/knn.py")
        knn = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(knn)

        def run():
            columns, classes = torch.from_numpy(bank).t().contiguous(), torch.from_numpy(of)
            right = 0
            for start in range(0, len(queries), 256):
                batch = torch.from_numpy(queries[start : start + 256])
                ranked = knn.knn_predict(batch, columns, classes, CLASSES, NEIGHBOURS, TEMPERATURE)
                right += (ranked[:, 0].numpy() == truth[start : start + 256]).sum()
            return right / len(queries)

    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before, begun = status("VmRSS"), time.perf_counter()
    accuracy = run()
    print(status("VmHWM") - before, time.perf_counter() - begun, accuracy)


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "--measure":
        measure(sys.argv[2], pathlib.Path(sys.argv[3]))
        return
    queries, bank, length, rounds = [*map(int, sys.argv[1:]), *[10_000, 50_000, 512, 3][len(sys.argv) - 1 :]]
    if not EXAMPLE.exists():
        sys.exit("build it first: cargo build --release -p nearkin-eval --example knn_memory")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        draw(folder, queries, bank, length)
        script = [sys.executable, __file__, "--measure"]
        ways = {way: [*script, way, name] for way in ("scikit-learn", "lightly")}
        ways["nearkin"] = [EXAMPLE, name]
        results = {way: [] for way in ways}
        for _ in range(rounds):
            for way, command in ways.items():
                done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
                if done.returncode:
                    reason = done.stderr.strip().splitlines()[-1:]
                    print(f"{way}: left out ({' '.join(reason)})", file=sys.stderr)
                else:
                    results[way].append([float(cell) for cell in done.stdout.split()])
    print(f"{queries} queries, bank of {bank}, length {length}: medians of {rounds} rounds in turns")
    print(f"{'':14} {'peak MiB':>9} {'seconds':>8} {'top-1 %':>8}")
    for way, runs in results.items():
        if runs:
            peak, seconds, accuracy = (statistics.median(column) for column in zip(*runs))
            print(f"{way:14} {peak:9.0f} {seconds:8.2f} {100 * accuracy:8.2f}")


if __name__ == "__main__":
    main()
