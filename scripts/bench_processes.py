"""How much faster two processes train than one: rounds of the same short run, side by side.

    python3 scripts/bench_processes.py [--rounds 3] [--epochs 2]

Needs a built nearkin (cargo build --release) and two cores. In every round one process with the half
batch has one core (the rate that two could at best double), two processes share the whole batch on two
cores, and one process has both cores. Images are drawn, so that no data is needed; rates are medians
over the recorded steps of the last epoch.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes/sce/cifar10-small.toml"
DATA = 'data={ dataset = "shapes", train_images = 2048, size_pixels = 32 }'
BATCH = 128


def rate(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    last = [record for record in steps if record["epoch"] == steps[-1]["epoch"]]
    return statistics.median(record["images_per_second"] for record in last)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()

    nearkin = str(ROOT / "target/release/nearkin")
    common = [str(RECIPE), "--set", DATA, "--set", "evaluation.every_epochs=0", "--quiet"]
    common += ["--set", "training.record_every_steps=1", "--epochs", str(arguments.epochs)]
    common += ["--set", "limit_images=2048"]

    def batch(images):
        return ["--set", f"training.batch_size={images}", "--set", "momentum_encoder.batch_norm_splits=2"]

    one_thread = ["--threads", "1", "--workers", "1"]
    starts = {
        "one process, one core, half the batch": ["taskset", "-c", "0", nearkin, "pretrain"]
        + [*common, *batch(BATCH // 2), *one_thread],
        "two processes, two cores": [nearkin, "launch", "--nproc", "2", "--", "pretrain"]
        + [*common, *batch(BATCH), *one_thread],
        "the same, own statistics of batch norm": [nearkin, "launch", "--nproc", "2", "--", "pretrain"]
        + [*common, *batch(BATCH), *one_thread, "--set", "training.synchronize_batch_norm=false"],
        "one process, two cores": [nearkin, "pretrain", *common, *batch(BATCH)]
        + ["--threads", "2", "--workers", "1"],
    }
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    rates = {name: [] for name in starts}
    for number in range(arguments.rounds):
        for name, start in starts.items():
            with tempfile.TemporaryDirectory() as folder:
                run = pathlib.Path(folder) / "run"
                command = [*start, "--out", str(run)]
                subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
                rates[name].append(rate(run))
            print(f"round {number + 1}: {name}: {rates[name][-1]:.0f} images/s", flush=True)
    alone = statistics.median(rates["one process, one core, half the batch"])
    print("\nmedian images/s, spread, and the share of twice one core")
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"{name}: {median:.0f} ({min(values):.0f} to {max(values):.0f}), {median / (2 * alone):.2f}")


if __name__ == "__main__":
    main()
