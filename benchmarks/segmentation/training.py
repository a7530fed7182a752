"""One training run: steps, checkpoints, resume, log.

The folder of a run holds ``last.pt`` (everything needed to go on), ``log.jsonl`` (one line per step or evaluation), files for
TensorBoard, and ``result.json`` at the end. A run that finds ``last.pt`` goes on from there and drops what the log says of later
steps, so a killed run gives the numbers that an undisturbed one gives. A larger number of steps extends a run. The loss
of a step is the mean over the labelled pixels of all its images, on however many processes and micro-batches they are
spread.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gcn_kernels.core import backends
from segmentation.build import build_network
from segmentation.checkpoint import NAME, load_checkpoint
from segmentation.datasets import IGNORE, Dataset, Task, has_sbd, load_task
from segmentation.extras import check as check_extras
from segmentation.extras import progress_bar, require
from segmentation.metrics import SegmentationMetrics
from segmentation.process import Process, set_batch_norm
from segmentation.recipe import Recipe, from_dict, to_dict
from segmentation.samples import loader, to_tensor
from segmentation.testing import WholeImage

AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Steps whose losses are written together: reading a loss waits for the device.
LOG_EVERY = 10


class Run:
    """A training run in a folder, new or resumed.

    Args:
        recipe: what to train.
        folder: where checkpoints and logs are.
        process: this process.
        task: the data; loaded as the recipe says if None.

    Raises:
        ValueError: the folder holds a run with another recipe; a setting does not fit the data or this machine.
        ImportError: a library that the run will need is not installed.
    """

    def __init__(self, recipe: Recipe, folder: Path, process: Process, task: Task | None = None) -> None:
        self.recipe, self.folder, self.process = recipe, folder, process
        check_extras(_needs(recipe))
        _check_backend(recipe, process)
        self.task = task_of(recipe) if task is None else task
        self._weights = _class_weights(recipe, len(self.task.classes), process.device)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out {folder}: expected a folder, this is a file")
        network = build_network(recipe, len(self.task.classes)).to(process.device)
        self.network = set_batch_norm(network, recipe.batch_norm, process.device)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = _optimizer(recipe, trained)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=recipe.amp == "fp16")
        average: Any = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True) if recipe.ema else None
        self.step = 0
        self._lines: list[tuple[int, Tensor]] = []
        folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.exists():
            self._resume()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / NAME

    @property
    def _log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def tested(self) -> nn.Module:
        """The network that is evaluated: the averaged one where there is an average."""
        return self.network if self.average is None else self.average.module

    def train(self) -> dict[str, Any]:
        """Run to the end; return the metrics of the last evaluation."""
        recipe, process = self.recipe, self.process
        parallel = DistributedDataParallel(self.network) if process.size > 1 else self.network
        batches = iter(loader(self.task.train, recipe, self.step, process.rank, process.size))
        writer = _writer(self.folder, self.step) if process.rank == 0 else None
        bar = progress_bar(total=recipe.steps, initial=self.step, disable=process.rank > 0, unit="step", mininterval=1.0)
        result: dict[str, Any] = {}
        while self.step < recipe.steps:
            loss = self._one_step(parallel, [next(batches) for _ in range(recipe.accumulate)])
            self._lines.append((self.step, loss))
            self.step += 1
            bar.update()
            last = self.step == recipe.steps
            due = recipe.evaluate_every and self.step % recipe.evaluate_every == 0
            if last or due or len(self._lines) == LOG_EVERY or self.step % recipe.checkpoint_every == 0:
                bar.set_postfix(loss=f"{self._write_losses(writer):.3f}")
            if last or due:
                result = self.evaluate(0 if last else recipe.evaluate_images)
                self._write_result(result, writer)
                if process.rank == 0:
                    bar.write(f"step {self.step}: mIoU {result['miou']:.4f}, pixel accuracy {result['pixel']:.4f}")
            if last or self.step % recipe.checkpoint_every == 0:
                self._save()
        bar.close()
        if writer is not None:
            writer.close()
        return result or json.loads((self.folder / "result.json").read_text())

    def evaluate(self, limit: int = 0) -> dict[str, Any]:
        """Metrics on the validation images, or the first ``limit`` of them."""
        count = len(self.task.classes)
        return evaluate(self.tested, self.task.val, count, self.process, limit=limit, progress=True)

    def _one_step(self, parallel: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        recipe, process = self.recipe, self.process
        torch.manual_seed((recipe.seed << 40) + self.step * process.size + process.rank)
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        labelled = torch.stack([_weight_of(y, self._weights) for _, y in batches]).sum()
        labelled = process.total(labelled.to(process.device))
        # The images of a step may hold no label at all.
        labelled = torch.where(labelled > 0, labelled, 1)
        total = torch.zeros((), device=process.device)
        for i, (x, y) in enumerate(batches):
            x, y = x.to(process.device, memory_format=layout), y.to(process.device)
            alone = i + 1 < len(batches) and isinstance(parallel, DistributedDataParallel)
            with parallel.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                with torch.autocast(process.device.type, dtype=AMP[recipe.amp], enabled=recipe.amp != "none"):
                    scores = parallel(x)
                loss = F.cross_entropy(scores.float(), y, self._weights, ignore_index=IGNORE, reduction="sum") / labelled
                # DistributedDataParallel takes the mean over processes; the loss is a sum.
                torch.autograd.backward(self.scaler.scale(loss * process.size))
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return process.total(total)

    def _write_losses(self, writer: Any) -> float:
        losses = [(step, float(loss)) for step, loss in self._lines]
        self._lines.clear()
        if writer is not None:
            with self._log.open("a") as log:
                for step, loss in losses:
                    rate = learning_rate(self.recipe, step)
                    log.write(json.dumps({"step": step, "loss": loss, "lr": rate}) + "\n")
                    writer.add_scalar("loss", loss, step)
                    writer.add_scalar("lr", rate, step)
        return losses[-1][1]

    def _write_result(self, result: dict[str, Any], writer: Any) -> None:
        if writer is None:
            return
        with self._log.open("a") as log:
            log.write(json.dumps({"step": self.step - 1, **result}) + "\n")
        for name in ("miou", "pixel", "boundary", "internal"):
            writer.add_scalar(f"val/{name}", result[name], self.step)
        (self.folder / "result.json").write_text(json.dumps({"steps": self.step, **result}, indent=1) + "\n")

    def _save(self) -> None:
        if self.process.rank == 0:
            state = {
                "step": self.step,
                "recipe": to_dict(self.recipe),
                "classes": list(self.task.classes),
                "annotations": self.task.annotations,
                "network": self.network.state_dict(),
                "tested": self.tested.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
            }
            # Written beside and renamed: whenever the run is killed, one whole checkpoint is there.
            temporary = self._checkpoint.with_suffix(".tmp")
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._checkpoint)
        self.process.wait()

    def _resume(self) -> None:
        state = load_checkpoint(self._checkpoint)
        saved = from_dict(state["recipe"])
        fixed = [f.name for f in fields(Recipe) if not f.metadata["free"]]
        changed = [name for name in fixed if getattr(saved, name) != getattr(self.recipe, name)]
        extended = self.recipe.steps > saved.steps
        if extended:
            changed.remove("steps")
        if changed:
            raise ValueError(
                f"{self.folder} holds a run with another recipe ({', '.join(changed)} differ): "
                "use another folder, or the same options; only steps may grow"
            )
        if state.get("annotations", "") not in ("", self.task.annotations):
            raise ValueError(
                f"{self.folder} was trained on VOC with the annotations {state['annotations']!r}, now there are "
                f"{self.task.annotations!r}: use another folder, or the same --root"
            )
        self.step = state["step"]
        self.process.say(f"{self.folder}: goes on from step {self.step} of {self.recipe.steps}")
        if extended:
            self.process.say(f"extended from {saved.steps} steps: the learning rate now falls over {self.recipe.steps}")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.process.rank == 0:
            lines = self._log.read_text().splitlines() if self._log.exists() else []
            kept = [line for line in lines if _step_of(line) < self.step]
            self._log.write_text("".join(f"{line}\n" for line in kept))


def evaluate(
    network: nn.Module,
    dataset: Dataset,
    classes: int,
    process: Process,
    testing: WholeImage | None = None,
    *,
    limit: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Metrics of a network over a data set, its images shared out over the processes.

    Args:
        network: [1, 3, H, W] -> [1, classes, H, W].
        dataset: images and labels.
        classes: number of classes.
        process: this process.
        testing: scales, mirroring, windows; the image as it is if None.
        limit: only the first images, 0 for all.
        progress: show a bar.
    """
    testing = WholeImage() if testing is None else testing
    metrics = SegmentationMetrics(classes, process.device)
    count = min(limit, len(dataset)) if limit else len(dataset)
    network.eval()
    with torch.inference_mode():
        mine = range(process.rank, count, process.size)
        hidden = not progress or process.rank > 0
        for index in progress_bar(mine, disable=hidden, unit="image", desc="evaluation", leave=False, mininterval=0.5):
            image, labels = dataset[index]
            probabilities = testing.probabilities(network, to_tensor(image)[None].to(process.device))
            metrics.add(probabilities.argmax(1), torch.from_numpy(labels)[None].long().to(process.device))
    return metrics.result()


def task_of(recipe: Recipe, root: str | None = None) -> Task:
    """The data of a recipe, from ``root`` if it is not where it was."""
    place = root or recipe.root or None
    return load_task(recipe.data, place, recipe.size, annotations=recipe.annotations, ignored=recipe.ignore_index)


def _needs(recipe: Recipe) -> Iterator[str]:
    """The libraries that a run will ask for, most of them long after its start."""
    yield from ("torchmetrics", "tensorboard", "tqdm")
    if recipe.data != "shapes":
        yield "PIL"
    if recipe.data == "voc" and (recipe.annotations == "sbd" or (recipe.annotations == "auto" and has_sbd(Path(recipe.root)))):
        yield "scipy"
    if recipe.encoder.startswith("timm:"):
        yield "timm"


def _check_backend(recipe: Recipe, process: Process) -> None:
    try:
        backends.choose(recipe.backend, "auto", torch.empty(0, device=process.device))
    except RuntimeError as error:
        raise ValueError(f"--backend {recipe.backend}: {error}") from error


def _class_weights(recipe: Recipe, classes: int, device: torch.device) -> Tensor | None:
    if not recipe.class_weights:
        return None
    if len(recipe.class_weights) != classes:
        raise ValueError(f"--class-weights: expected {classes} numbers, one per class, got {len(recipe.class_weights)}")
    return torch.tensor(recipe.class_weights, device=device)


def _weight_of(labels: Tensor, weights: Tensor | None) -> Tensor:
    """What the loss of these labels is divided by: the number of labelled pixels, or the sum of their classes' weights."""
    valid = labels != IGNORE
    return valid.sum() if weights is None else weights[labels[valid].to(weights.device)].sum()


def _writer(folder: Path, step: int) -> Any:
    library = require("torch.utils.tensorboard")
    return library.SummaryWriter(str(folder), purge_step=step)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Rate of one step: a linear rise over the warm-up, and polynomial decay to zero."""
    rise = min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else 1.0
    decay: float = (1 - step / recipe.steps) ** recipe.power
    return recipe.lr * rise * decay


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)


def _step_of(line: str) -> int:
    """Step of one line of the log; a line that was cut off counts as later than any."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 1 << 62
