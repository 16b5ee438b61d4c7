"""How the cost of a step grows with batch, queue, image size, processes and number of images.

    cargo build --release -p nearkin
    python3 scripts/growth.py [--only batch queue ...] [--steps-scale 1.0]

Runs `nearkin bench --json` on drawn images with a narrow network (base width 16), one size after the
other; draws a plot for each into docs/growth/ and writes its table between its markers in
docs/performance.md. A few minutes on two cores; nothing else should run meanwhile. What fails (too
little memory, say) is left out with a word about it.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
NEARKIN = ROOT / "target/release/nearkin"
RECIPE = ROOT / "recipes/sce/cifar10-small.toml"
PAGE = ROOT / "docs/performance.md"
PLOTS = ROOT / "docs/growth"
CORES = len(os.sched_getaffinity(0))

# What stands where it is not what grows.
BATCH, QUEUE, SIZE, IMAGES = 64, 4096, 32, 4096
# Images at 32 pixels that a measurement goes through, and the bounds of its steps.
WORK, FEWEST_STEPS, MOST_STEPS = 1200, 4, 60


def view(name, size):
    crop = f"{{ random_resized_crop = {{ size = {size}, scale = [0.2, 1.0] }} }}"
    jitter = "{ color_jitter = { probability = 0.8, brightness = 0.4, contrast = 0.4 } }"
    return f'{{ name = "{name}", transforms = [{crop}, {jitter}, {{ horizontal_flip = {{}} }}] }}'


def bench(scale, batch=BATCH, queue=QUEUE, size=SIZE, images=IMAGES, processes=1, threads=CORES):
    """The JSON of one measurement; `None` if it fails. Every process trains on `batch` images."""
    images = max(images, 2 * batch * processes)
    changes = [
        f'data={{ dataset = "shapes", train_images = {images}, size_pixels = {size} }}',
        f"limit_images={images}",
        f"training.batch_size={batch * processes}",
        f"momentum_encoder.batch_norm_splits={processes}",
        "training.synchronize_batch_norm=false",
        "momentum_encoder.shuffle=false",
        f"queue.size={queue}",
        f"views=[{view('weak', size)}, {view('strong', size)}]",
    ]
    steps = scale * WORK / batch * (SIZE / size) ** 2
    steps = max(FEWEST_STEPS, min(MOST_STEPS, round(steps)))
    command = [str(NEARKIN)]
    if processes > 1:
        command += ["launch", "--nproc", str(processes), "--"]
    command += ["bench", str(RECIPE), "--json", "--device", "cpu", "--steps", str(steps)]
    command += ["--threads", str(threads), "--workers", "1"]
    command += [word for change in changes for word in ("--set", change)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"left out: {reason}", file=sys.stderr)
        return None
    return json.loads(done.stdout)


def step(result):
    return result["median_milliseconds_per_step"]


def loss(result):
    return result["phases_milliseconds_per_step"]["loss"]


def rate(result):
    return result["images_per_second"]


# Of each plot: what grows, what is drawn against it, its unit, and the expected slope.
AXES = {
    "batch": ("images in a batch", step, "ms per step", 1),
    "queue": ("keys in the queue", loss, "ms of loss per step", 1),
    "size": ("side of an image, pixels", step, "ms per step", 2),
    "processes": ("processes, one thread each", rate, "images/s", 1),
    "images": ("images in the set", step, "ms per step", 0),
}


def measure(name, scale):
    """`[(x, result)]` of one axis."""
    if name == "processes":
        counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= 2 * CORES]
        points = [(n, bench(scale, processes=n, threads=1)) for n in counts]
    else:
        values = {
            "batch": [16, 32, 64, 128, 256, 512],
            "queue": [1024, 4096, 16384, 65536, 262144],
            "size": [16, 32, 64, 128],
            "images": [1024, 8192, 65536, 524288],
        }[name]
        points = [(value, bench(scale, **{name: value})) for value in values]
    return [(x, result) for x, result in points if result]


def bend(points, slope):
    """Where a part that grows as expected overtakes the part that does not grow: the fit of
    y = a + b x^slope to relative errors. `None` where there is no such place in the range."""
    if slope == 0 or len(points) < 3:
        return None
    rows = [(1 / y, x**slope / y) for x, y in points]
    aa, ab, bb = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a1, b1 = sum(r[0] for r in rows), sum(r[1] for r in rows)
    determinant = aa * bb - ab * ab
    if determinant <= 0:
        return None
    a, b = (a1 * bb - b1 * ab) / determinant, (b1 * aa - a1 * ab) / determinant
    if a <= 0 or b <= 0:
        return None
    x = (a / b) ** (1 / slope)
    return x if points[0][0] <= x <= points[-1][0] else None


def slope_at_end(points):
    (x0, y0), (x1, y1) = points[-2:]
    return math.log(y1 / y0) / math.log(x1 / x0)


def short(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def plot(name, points):
    """An SVG, both axes logarithmic."""
    label, _, unit, slope = AXES[name]
    width, height, left, right, top, bottom = 500, 320, 64, 460, 30, 264
    xs, ys = zip(*points)
    # The expectation goes through the last point, or through the first where it speeds things up.
    x_at, y_at = points[0] if name == "processes" else points[-1]
    expected = [(x, y_at * (x / x_at) ** slope) for x in (xs[0], xs[-1])]
    low = math.log(min([*ys, *(y for _, y in expected)]) / 1.3)
    high = math.log(max([*ys, *(y for _, y in expected)]) * 1.3)
    span = max(math.log(xs[-1] / xs[0]), 1e-9)
    to_x = lambda x: left + (right - left) * math.log(x / xs[0]) / span
    to_y = lambda y: bottom - (bottom - top) * (math.log(y) - low) / (high - low)
    line = lambda pairs: "M" + "L".join(f"{to_x(x):.1f} {to_y(y):.1f}" for x, y in pairs)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{unit} by {label}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left - 52}" y="18">{unit}</text>',
    ]
    ticks = [m * 10**e for e in range(-4, 10) for m in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= math.log(tick) <= high]
    for tick in ticks if len(ticks) <= 8 else ticks[::3]:
        y = to_y(tick)
        out.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for x in xs:
        out.append(f'<path d="M{to_x(x):.1f} {bottom}v4" stroke="#555"/>')
        out.append(f'<text x="{to_x(x):.1f}" y="{bottom + 17}" text-anchor="middle">{x:,}</text>')
    out.append(f'<path d="M{left} {bottom}H{right}" stroke="#555"/>')
    out.append(f'<text x="{(left + right) / 2}" y="{height - 14}" text-anchor="middle">{label}</text>')
    out.append(f'<path d="{line(expected)}" stroke="#999" stroke-dasharray="5 4"/>')
    out.append(f'<path d="{line(points)}" stroke="#2563a8" stroke-width="2" fill="none"/>')
    out += [f'<circle cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="3" fill="#2563a8"/>' for x, y in points]
    bent = bend(points, slope) if name != "processes" else None
    if bent:
        x = to_x(bent)
        out.append(f'<path d="M{x:.1f} {top}V{bottom}" stroke="#b3541e" stroke-dasharray="2 3"/>')
        out.append(f'<text x="{x + 4:.1f}" y="{top + 12}" fill="#b3541e">bends at {short(bent)}</text>')
    out.append("</svg>\n")
    return "\n".join(out)


def table(name, measured):
    label, value, unit, slope = AXES[name]
    points = [(x, value(result)) for x, result in measured]
    lines = [f"![{unit} by {label}](growth/{name}.svg)", ""]
    headers = [label, "ms per step", "of it loss", "images/s", "share of the matmul rate", "peak memory, MiB"]
    lines += ["| " + " | ".join(headers) + " |", "|---" * len(headers) + "|"]
    for x, result in measured:
        cells = [f"{x:,}", f"{step(result):.1f}", f"{loss(result):.2f}", short(rate(result))]
        cells += [f"{100 * result['matmul_share']:.1f} %", f"{result['peak_memory_bytes'] / 2**20:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    if len(points) > 1:
        said = f"Slope of the {unit} between the last two: {slope_at_end(points):.2f}, expected {slope}"
        bent = bend(points, slope) if name != "processes" else None
        end = f"; the part that does not grow is overtaken at {short(bent)}" if bent else ""
        lines += ["", f"{said}{end}. {CORES} cores, load {os.getloadavg()[0]:.1f}."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--steps-scale", type=float, default=1.0)
    arguments = parser.parse_args()
    if not NEARKIN.exists():
        sys.exit("build it first: cargo build --release -p nearkin")
    PLOTS.mkdir(exist_ok=True)
    for name in arguments.only:
        measured = measure(name, arguments.steps_scale)
        for x, result in measured:
            print(f"{name} {x}: {step(result):.1f} ms per step, {rate(result):.0f} images/s", flush=True)
        if not measured:
            continue
        points = [(x, AXES[name][1](result)) for x, result in measured]
        (PLOTS / f"{name}.svg").write_text(plot(name, points))
        replace(name, table(name, measured))


def replace(name, text):
    """Puts the text between the markers of that name."""
    begin, end = f"<!-- growth: {name} -->\n", f"<!-- end of growth: {name} -->\n"
    page = PAGE.read_text()
    if page.count(begin) != 1 or page.count(end) != 1:
        sys.exit(f"{PAGE} needs the lines {begin.strip()} and {end.strip()}, once each")
    before, rest = page.split(begin)
    PAGE.write_text(before + begin + text + "\n" + end + rest.split(end)[1])


if __name__ == "__main__":
    main()
