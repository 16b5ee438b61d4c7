"""Trains one workload with one of the peers for some steps and prints what that took, as a JSON line.

    python train.py {lightly,solo-learn,compute} WORKLOAD --recipe FILE --weights FILE --images PATH
                    --limit-images N --warm-up N --steps N
                    [--workers N] [--memory-format FORMAT] [--seed N]

compare.py starts it, each time as a process of its own, so that peak memory is that run's alone. All
numbers of the workload come from nearkin's recipe with every default filled in, and the first weights
from nearkin's network, so that no tool can train something else. The rate is that of whole steps by the
wall clock, after the warm-up.

Peak memory is that of the process (getrusage), and for each worker of a DataLoader, which is a process
that shares most of its memory with the first, the memory that it shares with nobody
(/proc/PID/smaps_rollup) at the end of the last step.
"""

import argparse
import copy
import itertools
import json
import multiprocessing
import pathlib
import random
import resource
import sys
import time
import tomllib
import types
import unittest.mock

import numpy
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

CLASSES = 10


class Recipe:
    """What the peers need of nearkin's resolved recipe."""

    def __init__(self, path):
        recipe = tomllib.loads(path.read_text())
        self.method = recipe["method"]
        self.model = recipe["model"]
        self.momentum = recipe.get("momentum_encoder", {}).get("momentum")
        self.queue = recipe.get("queue", {}).get("size")
        self.batch = recipe["training"]["batch_size"]
        optimizer = recipe["optimizer"]
        if (optimizer["name"], optimizer["learning_rate_scaling"]) != ("sgd", "linear"):
            sys.exit("the recipe has to use sgd with a learning rate that follows the batch linearly")
        self.optimizer = {
            "lr": optimizer["learning_rate"] * self.batch / 256,
            "momentum": optimizer["momentum"],
            "weight_decay": optimizer["weight_decay"],
        }
        self.views = [
            {name: options for one in view["transforms"] for name, options in one.items()}
            for view in recipe["views"]
        ]
        hidden, output = self.model["projector"]
        self.hidden, self.dimension = hidden["width"], output["width"]


class Images(torch.utils.data.Dataset):
    """CIFAR-10's binary files, in memory, or a folder of JPEG files; views are made on demand."""

    def __init__(self, path, limit, views, indexed):
        self.views, self.indexed = views, indexed
        self.files = sorted(path.glob("*.jpg"))[:limit]
        if self.files:
            self.labels = [number % CLASSES for number in range(len(self.files))]
            return
        batches = sorted(path.glob("data_batch_*.bin"))
        records = numpy.concatenate([numpy.fromfile(batch, numpy.uint8).reshape(-1, 3073) for batch in batches])
        self.pixels = records[:limit, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()
        self.labels = records[:limit, 0].tolist()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if self.files:
            image = Image.open(self.files[index]).convert("RGB")
        else:
            image = Image.fromarray(self.pixels[index])
        views, label = self.views(image), self.labels[index]
        return (index, views, label) if self.indexed else (views, label)


def loader(arguments, recipe, views, indexed=False):
    return torch.utils.data.DataLoader(
        Images(arguments.images, arguments.limit_images, views, indexed),
        batch_size=recipe.batch,
        shuffle=True,
        drop_last=True,
        num_workers=arguments.workers,
        persistent_workers=arguments.workers > 0,
    )


def cifar_resnet18(width):
    """torchvision's ResNet-18 with fewer channels and a first layer for small images."""
    network = ResNet(BasicBlock, [2, 2, 2, 2])
    network.conv1, network.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
    network.maxpool, network.inplanes = nn.Identity(), width
    for stage, stride in enumerate((1, 2, 2, 2)):
        layer = network._make_layer(BasicBlock, width << stage, 2, stride)
        setattr(network, f"layer{stage + 1}", layer)
    return network


def backbone(recipe):
    """The network without its classifier, and how long its features are."""
    kind = (recipe.model["backbone"], recipe.model["stem"])
    if kind == ("resnet18", "cifar"):
        network = cifar_resnet18(recipe.model["base_width"])
    elif kind == ("resnet50", "imagenet") and recipe.model["base_width"] == 64:
        network = ResNet(Bottleneck, [3, 4, 6, 3])
    else:
        sys.exit(f"the peers are not prepared for the backbone {kind}")
    network.fc = nn.Identity()
    return network, network.inplanes


def adopt(path, network, projector):
    """Takes the weights of nearkin's network, which fails where the two differ by name or shape."""
    own, layer = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}, -1
    for module in projector.modules():
        if isinstance(module, nn.Linear):
            layer += 1
        elif not isinstance(module, nn.BatchNorm1d):
            continue
        place = f"projector.{layer}" if isinstance(module, nn.Linear) else f"projector.{layer}.batch_norm"
        own |= {f"{place}.{name}": tensor for name, tensor in module.state_dict().items()}
    own = {name: tensor for name, tensor in own.items() if not name.endswith("num_batches_tracked")}
    theirs = safetensors.torch.load_file(path)
    shapes = lambda tensors: {(name, tuple(tensor.shape)) for name, tensor in tensors.items()}
    if differences := shapes(own) ^ shapes(theirs):
        sys.exit(f"the network is not nearkin's: {sorted(differences)[:4]}")
    for name, tensor in own.items():
        tensor.copy_(theirs[name])


def parameters(*modules):
    return sum(weight.numel() for module in modules for weight in module.parameters())


def memory():
    """Peak MiB of this process and MiB of its workers: see above."""
    mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for worker in multiprocessing.active_children():
        for line in pathlib.Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                mebibytes += int(line.split()[1]) / 1024
    return mebibytes


class Measurement:
    """Is told of every step that is done."""

    def __init__(self, arguments, batch):
        self.arguments, self.batch = arguments, batch
        self.done, self.first_loss, self.seconds = 0, None, None

    def step(self, loss):
        """True once this was the last one."""
        self.done += 1
        if self.done == 1:
            self.first_loss = float(loss)
        if self.done == self.arguments.warm_up:
            self.begun = time.perf_counter()
        if self.done < self.arguments.warm_up + self.arguments.steps:
            return False
        self.seconds = time.perf_counter() - self.begun
        self.peak = memory()
        return True

    def report(self, count):
        arguments = self.arguments
        report = {
            "tool": arguments.tool,
            "workload": arguments.workload,
            "images_per_second": arguments.steps * self.batch / self.seconds,
            "steps": arguments.steps,
            "first_loss": self.first_loss,
            "parameters": count,
            "peak_mebibytes": self.peak,
        }
        print(json.dumps(report))


class Student(nn.Module):
    """Backbone and projector, as the tutorials of lightly write them."""

    def __init__(self, network, projector):
        super().__init__()
        self.backbone, self.projector = network, projector

    def forward(self, images):
        return self.projector(self.backbone(images).flatten(start_dim=1))


def lightly_view(options):
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    crop, normalize = options["random_resized_crop"], options["normalize"]
    jitter, blur = options.get("color_jitter", {}), options.get("gaussian_blur", {})
    return SimCLRViewTransform(
        input_size=crop["size"],
        min_scale=crop["scale"][0],
        cj_prob=jitter.get("probability", 0.0),
        cj_bright=jitter.get("brightness", 0.0),
        cj_contrast=jitter.get("contrast", 0.0),
        cj_sat=jitter.get("saturation", 0.0),
        cj_hue=jitter.get("hue", 0.0),
        random_gray_scale=options.get("grayscale", {}).get("probability", 0.0),
        gaussian_blur=blur.get("probability", 0.0),
        sigmas=tuple(blur.get("sigma", (0.1, 2.0))),
        hf_prob=options["horizontal_flip"]["probability"],
        normalize={"mean": normalize["mean_rgb"], "std": normalize["std_rgb"]},
    )


def sce(memory_bank, method, queries, keys):
    """SCE's loss (arXiv 2111.14585): one part one-hot, one part the keys' similarities to the queue."""
    queries, keys = nn.functional.normalize(queries, dim=1), nn.functional.normalize(keys, dim=1)
    keys, queue = memory_bank(keys, update=True)
    own = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([own, queries @ queue], dim=1) / method["temperature"]
    relations = torch.softmax(keys @ queue / method["temperature_momentum"], dim=1)
    share = method["coefficient"]
    target = torch.cat([torch.full_like(own, share), (1 - share) * relations], dim=1)
    return nn.functional.cross_entropy(logits, target.detach())


def lightly(arguments, recipe):
    """The networks, losses and transforms of lightly in the loop of its tutorials."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead, SimCLRProjectionHead
    from lightly.models.modules.memory_bank import MemoryBankModule
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.transforms.multi_view_transform import MultiViewTransform

    method, name = recipe.method, recipe.method["name"]
    network, features = backbone(recipe)
    head = SimCLRProjectionHead if name == "simclr" else MoCoProjectionHead
    student = Student(network, head(features, recipe.hidden, recipe.dimension))
    adopt(arguments.weights, student.backbone, student.projector)
    student = student.to(memory_format=arguments.memory_format)
    optimizer = torch.optim.SGD(student.parameters(), **recipe.optimizer)
    batches = loader(arguments, recipe, MultiViewTransform([lightly_view(view) for view in recipe.views]))
    if name != "simclr":
        teacher = copy.deepcopy(student)
        deactivate_requires_grad(teacher)
    bank = (recipe.queue, recipe.dimension)
    if name == "sce":
        memory_bank = MemoryBankModule(size=bank)
    else:
        criterion = NTXentLoss(method["temperature"], memory_bank_size=0 if name == "simclr" else bank)

    def losses():
        for views, _ in itertools.chain.from_iterable(itertools.repeat(batches)):
            # As in nearkin's recipes, the first view makes the keys.
            first, second = [view.to(memory_format=arguments.memory_format) for view in views]
            if name == "simclr":
                loss = criterion(student(first), student(second))
            else:
                update_momentum(student, teacher, recipe.momentum)
                queries = student(second)
                with torch.no_grad():
                    keys = teacher(first)
                loss = sce(memory_bank, method, queries, keys) if name == "sce" else criterion(queries, keys)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield loss.detach()

    return losses(), parameters(student)


def compute(arguments, recipe):
    """PyTorch alone on one batch of random numbers: MoCo's step without any images."""
    if recipe.method["name"] != "moco":
        sys.exit("what computing alone takes is prepared for MoCo only")
    network, features = backbone(recipe)
    projector = nn.Sequential(
        nn.Linear(features, recipe.hidden), nn.ReLU(), nn.Linear(recipe.hidden, recipe.dimension)
    )
    adopt(arguments.weights, network, projector)
    student = Student(network, projector).to(memory_format=arguments.memory_format)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), **recipe.optimizer)
    pairs = [list(network.parameters()) for network in (teacher, student)]
    unit = lambda rows: nn.functional.normalize(rows, dim=1)
    queue = unit(torch.randn(recipe.queue, recipe.dimension))
    size = recipe.views[0]["random_resized_crop"]["size"]
    draw = lambda: torch.randn(recipe.batch, 3, size, size).to(memory_format=arguments.memory_format)
    first, second = draw(), draw()
    labels = torch.zeros(recipe.batch, dtype=torch.long)

    def losses():
        for step in itertools.count():
            with torch.no_grad():
                torch._foreach_lerp_(*pairs, 1 - recipe.momentum)
                keys = unit(teacher(first))
            queries = unit(student(second))
            own = (queries * keys).sum(dim=1, keepdim=True)
            logits = torch.cat([own, queries @ queue.t()], dim=1) / recipe.method["temperature"]
            loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            start = step * recipe.batch % recipe.queue
            queue[start : start + recipe.batch] = keys
            yield loss.detach()

    return losses(), parameters(student)


def solo_view(options):
    from solo.utils.pretrain_dataloader import CustomTransform
    from torchvision.transforms import InterpolationMode

    crop, normalize = options["random_resized_crop"], options["normalize"]
    jitter = options.get("color_jitter", {})
    view = CustomTransform(
        **{key: jitter.get(key, 0.0) for key in ("brightness", "contrast", "saturation", "hue")},
        color_jitter_prob=jitter.get("probability", 0.0),
        gray_scale_prob=options.get("grayscale", {}).get("probability", 0.0),
        horizontal_flip_prob=options["horizontal_flip"]["probability"],
        gaussian_prob=options.get("gaussian_blur", {}).get("probability", 0.0),
        min_scale=crop["scale"][0],
        max_scale=crop["scale"][1],
        crop_size=crop["size"],
        mean=normalize["mean_rgb"],
        std=normalize["std_rgb"],
    )
    # Its own choice is bicubic; the others of this comparison are bilinear.
    view.transform.transforms[0].interpolation = InterpolationMode.BILINEAR
    return view


def import_solo():
    """solo-learn's methods beside a PyTorch and a Lightning that are years newer than its own.

    lightning-bolts does not go together with today's Lightning; solo-learn takes a schedule from it
    that is not used here.
    """
    name = "pl_bolts.optimizers.lr_scheduler"
    bolts = {part: types.ModuleType(part) for part in ("pl_bolts", "pl_bolts.optimizers", name)}
    bolts[name].LinearWarmupCosineAnnealingLR = None
    sys.modules.update(bolts)
    import solo.methods

    return solo.methods


def solo_learn(arguments, recipe, measurement):
    """solo-learn's own module under Lightning's Trainer.

    MoCo v2+ has no asymmetric form, and its loss is compared with nearkin's symmetric one. SCE is not
    there: ReSSL is the nearest. The classifier that every method of solo-learn trains on the side stays.
    """
    import pytorch_lightning as lightning
    from lightly.models.modules import SimCLRProjectionHead

    methods = import_solo()
    from solo.utils.momentum import initialize_momentum_params
    from solo.utils.pretrain_dataloader import prepare_n_crop_transform

    name, method = recipe.method["name"], recipe.method
    own = {"proj_hidden_dim": recipe.hidden, "proj_output_dim": recipe.dimension}
    kind, logged = methods.SimCLR, "train_nce_loss_step"
    views = [solo_view(view) for view in recipe.views]
    if name == "simclr":
        own |= {"temperature": method["temperature"]}
    else:
        own |= {"queue_size": recipe.queue, "momentum_classifier": False}
        own |= {"base_tau_momentum": recipe.momentum, "final_tau_momentum": recipe.momentum}
        if name == "moco":
            kind = methods.MoCoV2Plus
            own |= {"temperature": method["temperature"]}
        else:
            kind, logged = methods.ReSSL, "ressl_loss_step"
            own |= {"temperature_q": method["temperature"], "temperature_k": method["temperature_momentum"]}
            # The first view is ReSSL's query, the second its key.
            views.reverse()

    class Module(kind):
        # Today's Lightning refuses a module that has it.
        validation_epoch_end = None

        def on_train_batch_end(self, outputs, batch, batch_idx):
            # Today's Lightning passes no number of a loader. SimCLR has no such step of its own.
            if name != "simclr":
                super().on_train_batch_end(outputs, batch, batch_idx, 0)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            indexes, views, labels = batch
            return indexes, [view.to(memory_format=arguments.memory_format) for view in views], labels

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if measurement.step(trainer.callback_metrics[logged]):
                trainer.should_stop = True

    optimizer = dict(recipe.optimizer)
    # In place of torchvision's, since solo-learn has no other width, and pads the first layer by 2.
    with unittest.mock.patch(f"torchvision.models.{recipe.model['backbone']}", lambda: backbone(recipe)[0]):
        module = Module(
            encoder=recipe.model["backbone"],
            num_classes=CLASSES,
            backbone_args={},
            max_epochs=1,
            batch_size=recipe.batch,
            optimizer="sgd",
            lars=False,
            lr=optimizer["lr"],
            weight_decay=optimizer["weight_decay"],
            classifier_lr=optimizer["lr"],
            exclude_bias_n_norm=False,
            accumulate_grad_batches=1,
            extra_optimizer_args={"momentum": optimizer["momentum"]},
            scheduler="none",
            min_lr=0.0,
            warmup_start_lr=0.0,
            warmup_epochs=0,
            num_large_crops=2,
            num_small_crops=0,
            **own,
        )
    if name == "simclr":
        # With batch norms, as nearkin and lightly have it.
        module.projector = SimCLRProjectionHead(module.features_dim, recipe.hidden, recipe.dimension)
    adopt(arguments.weights, module.encoder, module.projector)
    if name != "simclr":
        for pair in module.momentum_pairs:
            initialize_momentum_params(*pair)
    module.to(memory_format=arguments.memory_format)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watch()],
    )
    pipeline = prepare_n_crop_transform(views, [1] * len(views))
    trainer.fit(module, loader(arguments, recipe, pipeline, indexed=True))
    return parameters(module.encoder, module.projector)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", choices=["lightly", "solo-learn", "compute"])
    parser.add_argument("workload")
    parser.add_argument("--recipe", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=pathlib.Path, required=True)
    parser.add_argument("--limit-images", type=int, required=True)
    parser.add_argument("--warm-up", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--memory-format", default="contiguous", choices=["contiguous", "channels-last"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    formats = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
    arguments.memory_format = formats[arguments.memory_format]
    for seed in (torch.manual_seed, numpy.random.seed, random.seed):
        seed(arguments.seed)
    recipe = Recipe(arguments.recipe)
    measurement = Measurement(arguments, recipe.batch)
    if arguments.tool == "solo-learn":
        count = solo_learn(arguments, recipe, measurement)
    else:
        losses, count = {"lightly": lightly, "compute": compute}[arguments.tool](arguments, recipe)
        for loss in losses:
            if measurement.step(loss):
                break
    measurement.report(count)


if __name__ == "__main__":
    main()
