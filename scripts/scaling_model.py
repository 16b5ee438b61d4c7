"""What a step of many GPUs should take: the table of docs/scaling.md, from its assumptions.

    python3 scripts/scaling_model.py

ResNet-50 at 224 pixels, SCE with one trained and one momentum view, batch 4096 of all processes, queue
65,536, embeddings of length 128. Nothing here was measured on GPUs; every assumption is a constant.
"""

BATCH = 4096
QUEUE = 65_536
EMBEDDING = 128

# Multiply-adds of one forward pass at 224 pixels, twice for operations. Forward and backward of the
# trained view cost three of them, the momentum view one.
FORWARD_FLOP = 2 * 4.09e9
PASSES = 4
BACKWARD_SHARE = 2 / 4
# What convolutions reach in bf16, of a card whose matrix products reach some 700 TFLOP/s.
SUSTAINED_FLOPS = 200e12

# Backbone 23.5 M, head 2048-2048-128 with batch norm 4.5 M; gradients are exchanged in 32 bits.
GRADIENT_BYTES = 4 * 28.0e6
# 53 batch norms of the backbone and one of the head; forward and backward of the trained view and
# forward of the momentum view each take one small sum.
SMALL_SUMS = 3 * 54

# Per GPU: (GPUs, bytes per second of the slowest link on the way, seconds of a small sum).
MACHINES = [
    ("8, one node with NVLink", 8, 300e9, 20e-6),
    ("64, 400 Gbit/s per GPU", 64, 50e9, 35e-6),
    ("1024, 400 Gbit/s per GPU", 1024, 50e9, 60e-6),
]


def main():
    alone = BATCH * PASSES * FORWARD_FLOP / SUSTAINED_FLOPS
    print(f"one GPU would need {1e3 * alone:.0f} ms for a step\n")
    print("| GPUs | images each | compute | gradients, in all / not hidden | statistics | keys | step | efficiency | the same without synchronised statistics |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, gpus, bandwidth, latency in MACHINES:
        compute = alone / gpus
        ring = 2 * (gpus - 1) / gpus
        gradients = ring * GRADIENT_BYTES / bandwidth
        exposed = max(gradients - BACKWARD_SHARE * compute, latency)
        statistics = SMALL_SUMS * latency
        keys = (gpus - 1) / gpus * BATCH * EMBEDDING * 4 / bandwidth + latency
        step = compute + exposed + statistics + keys + latency
        without = step - statistics
        cells = [name, f"{BATCH // gpus}", f"{1e3 * compute:.1f} ms"]
        cells += [f"{1e3 * gradients:.1f} / {1e3 * exposed:.1f} ms", f"{1e3 * statistics:.1f} ms"]
        cells += [f"{1e3 * keys:.2f} ms", f"{1e3 * step:.1f} ms", f"{100 * compute / step:.0f} %"]
        cells += [f"{100 * compute / without:.0f} %"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
