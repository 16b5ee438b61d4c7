"""How libtorch's threads should wait for each other: images/s and CPU time of each setting, in turns.

    cargo build --release -p nearkin
    python3 scripts/bench_openmp.py [--rounds 3] [--steps 60] [--set KEY=VALUE ...]

Every run is `nearkin bench` on recipes/demo.toml, once with the machine as it is and once while another
program keeps one core busy. The rows are the environment in which libgomp starts; "user" is the CPU time
of all threads in seconds, which shows what spinning costs, and includes the start of the program.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
NEARKIN = ROOT / "target/release/nearkin"
SETTINGS = {
    "as libgomp has it": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}


def run(command, environment):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    user = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return json.loads(done.stdout)["images_per_second"], user


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", default=str(os.cpu_count()))
    parser.add_argument("--workers", default="1")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    command = [NEARKIN, "bench", ROOT / "recipes/demo.toml", "--json", "--device", "cpu"]
    command += ["--steps", str(arguments.steps), "--threads", arguments.threads]
    command += ["--workers", arguments.workers]
    command += [word for change in arguments.set for word in ("--set", change)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}

    rows = {}
    for _ in range(arguments.rounds):
        for busy in (False, True):
            for name, setting in SETTINGS.items():
                other = busy and subprocess.Popen([sys.executable, "-c", "while True: pass"])
                try:
                    measured = run(command, {**inherited, **setting})
                finally:
                    if other:
                        other.kill()
                        other.wait()
                rows.setdefault((name, busy), []).append(measured)
                print(f"{name}, busy={busy}: {measured[0]:.1f} images/s", file=sys.stderr)
    print(f"{arguments.threads} threads, {arguments.workers} loader workers, load {os.getloadavg()[0]:.1f}\n")
    print("| | images/s | user, s | images/s, one core busy | user, s |")
    print("|---|---|---|---|---|")
    for name in SETTINGS:
        cells = []
        for busy in (False, True):
            rates, seconds = zip(*rows[name, busy])
            cells += [f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"]
            cells += [f"{statistics.median(seconds):.1f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
