"""What compare.py measured: how long a run is, its rate, and the tables. Needs nothing but Python, so
that its tests run without the peers."""

import dataclasses
import math
import statistics
import typing

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
# First losses are those of the same weights on other draws of 32 to 256 images and their views.
TOLERANCE = 0.1


@dataclasses.dataclass
class Plan:
    """How long a run is. Both numbers of steps are whole multiples of `record_every`."""

    warm_up: int
    steps: int
    epochs: int
    images: int
    record_every: int


def plan(batch, steps, available):
    """The warm-up follows the steps, since nearkin records a rate every 10 steps at most."""
    record_every = math.gcd(steps, 10)
    total = record_every + steps
    if available < batch:
        raise ValueError(f"a batch of {batch} needs more than {available} images")
    epochs = math.ceil(total / (available // batch))
    return Plan(record_every, steps, epochs, math.ceil(total / epochs) * batch, record_every)


def recorded_rate(records, batch, warm_up, steps):
    """Images per second between two steps of metrics.jsonl, by its wall clock."""
    seconds = {record["step"]: record["seconds"] for record in records if record["kind"] == "step"}
    return steps * batch / (seconds[warm_up + steps] - seconds[warm_up])


@dataclasses.dataclass
class Row:
    """One tool: a report (images_per_second, first_loss, parameters, peak_mebibytes) for each round."""

    label: str
    runs: list = dataclasses.field(default_factory=list)
    # nearkin doing the same job; None for nearkin itself.
    reference: typing.Optional["Row"] = None
    # Whether its first loss is that of the reference.
    same_loss: bool = True
    # What the ratio should reach at least.
    target: typing.Optional[float] = None

    def column(self, name):
        return [run[name] for run in self.runs]

    def ratios(self):
        """How many times this tool's rate nearkin has, round by round."""
        rates = zip(self.reference.column("images_per_second"), self.column("images_per_second"))
        return [nearkin / own for nearkin, own in rates]

    def loss_difference(self):
        """The median over the rounds of the first loss' distance, as a share of the reference's."""
        pairs = zip(self.column("first_loss"), self.reference.column("first_loss"))
        return statistics.median(own / nearkin - 1 for own, nearkin in pairs)

    def cells(self):
        parameters, loss = self.runs[0]["parameters"], statistics.median(self.column("first_loss"))
        ratio, target, count, first = "", "", f"{parameters:,}", f"{loss:.3f}"
        if self.reference:
            ratio = spread(self.ratios(), 2)
            if parameters != self.reference.runs[0]["parameters"]:
                count += " OTHER NETWORK"
            if not self.same_loss:
                first += ", not compared"
            elif abs(self.loss_difference()) > TOLERANCE:
                first += f", OFF by {100 * self.loss_difference():+.0f} %"
        if self.target:
            held = sum(ratio >= self.target for ratio in self.ratios())
            target = f"{self.target}: {held} of {len(self.runs)} rounds"
        rate, peak = spread(self.column("images_per_second")), spread(self.column("peak_mebibytes"), 0)
        return [self.label, rate, ratio, target, peak, count, first]


HEAD = [
    "",
    "images/s",
    "nearkin's rate / this",
    "at least",
    "peak MiB",
    "parameters",
    "first loss",
]


def spread(values, digits=None):
    """Median (lowest to highest); without a number of digits, as many as three figures take."""
    if digits is None:
        digits = max(0, 2 - math.floor(math.log10(statistics.median(values))))
    low, middle, high = (f"{f(values):,.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


def markdown(rows):
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    padded = ((f" {cell} " if cell else " " for cell in line) for line in lines)
    return "".join(f"|{'|'.join(line)}|\n" for line in padded)


def text(rows):
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in lines)
    return "".join(f"{line.rstrip()}\n" for line in padded)


def replaced(document, tables):
    """The document with other tables between the two markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the lines {BEGIN} and {END} are not there")
    return f"{before}{begin}\n\n{tables.strip()}\n\n{end}{after}"
