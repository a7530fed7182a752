"""Re-run tables 1, 2, 3 and 5 of the paper, with several seeds.

    python benchmarks/ablation.py --out runs/ablation                               # built-in data set
    python benchmarks/ablation.py --out runs/voc --data voc --root DATA --weights resnet152.pth --parallel 1
    python benchmarks/ablation.py --out runs/ablation --report                      # tables and plots of what is there

Networks that several tables share are trained once. Runs resume: started again, the script goes on where it was. It writes
``tables.md``, ``results.json``, ``miou_by_k.png`` and ``receptive_field.png`` into the folder.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from eval_seg import HEAT, inner_point, load_run
from segmentation import extras, pictures, recipe, tables
from segmentation.checkpoint import load_trained
from segmentation.experiments import BASELINE, TABLES, Experiment, gcn
from segmentation.pictures import Panel
from segmentation.process import Parser, Process
from segmentation.recipe import Recipe
from segmentation.samples import to_tensor
from segmentation.settings import at_least, number
from segmentation.training import task_of

#: What a short run on the built-in set changes, so that all of them fit into 20 minutes on two cores.
SHORT: dict[str, Any] = {"size": 192, "steps": 350, "warmup": 25, "evaluate_every": 0, "checkpoint_every": 125}


def folder_of(out: Path, experiment: Experiment, seed: int) -> Path:
    """Folder of one run."""
    return out / f"{experiment.name.replace(' ', '_')}-seed{seed}"


def train_all(jobs: list[tuple[Experiment, int]], base: Recipe, out: Path, parallel: int, threads: int) -> None:
    """Train every run that has no result yet, ``parallel`` at once, each a process of its own."""
    waiting = [(e, s) for e, s in jobs if not (folder_of(out, e, s) / "result.json").exists()]
    running: list[tuple[Experiment, int, subprocess.Popen[bytes], float]] = []
    done = len(jobs) - len(waiting)
    while waiting or running:
        while waiting and len(running) < parallel:
            experiment, seed = waiting.pop(0)
            folder = folder_of(out, experiment, seed)
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, str(Path(__file__).with_name("train_seg.py")), "--out", str(folder)]
            command += [*options_of(experiment.recipe(base, seed)), "--threads", str(threads)]
            with (folder / "output.txt").open("wb") as output:
                running.append((experiment, seed, subprocess.Popen(command, stdout=output, stderr=output), time.monotonic()))
        time.sleep(0.2)
        for job in [j for j in running if j[2].poll() is not None]:
            running.remove(job)
            experiment, seed, process, start = job
            folder = folder_of(out, experiment, seed)
            if process.returncode:
                raise RuntimeError(f"training {experiment.name} failed: see {folder / 'output.txt'}")
            done += 1
            miou = json.loads((folder / "result.json").read_text())["miou"]
            print(
                f"{done}/{len(jobs)} {experiment.name}, seed {seed}: mIoU {miou:.3f} in {time.monotonic() - start:.0f} s",
                flush=True,
            )


def options_of(settings: Recipe) -> Iterator[str]:
    """The command line of ``train_seg.py`` that gives these settings."""
    for field in fields(Recipe):
        value, name = getattr(settings, field.name), field.name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        elif isinstance(value, tuple) and value:
            yield from (f"--{name}", *map(str, value))
        elif value not in ("", ()):
            yield from (f"--{name}", str(value))


def collect(jobs: list[tuple[Experiment, int]], out: Path) -> dict[str, list[dict[str, Any]]]:
    """Results by network, one for each seed that is there."""
    results: dict[str, list[dict[str, Any]]] = {}
    for experiment, seed in jobs:
        folder = folder_of(out, experiment, seed)
        if (folder / "result.json").exists():
            network = load_trained(folder, torch.device("cpu")).network
            count = sum(p.numel() for p in network.get_submodule("heads").parameters())
            result = json.loads((folder / "result.json").read_text())
            results.setdefault(experiment.name, []).append({"seed": seed, "head_parameters": count, **result})
    return results


def draw_fields(out: Path, images: int = 4) -> None:
    """The valid receptive field of one point in some images: image, truth, without GCN, with GCN (k = 15)."""
    process = Process(0, 1, torch.device("cpu"))
    folders = [folder_of(out, e, 0) for e in (BASELINE, gcn(15))]
    if not all((f / "last.pt").exists() for f in folders):
        return
    loaded = [load_run(f, process) for f in folders]
    _, task, palette = loaded[0]
    rows, truths = [], []
    for index in range(min(images, len(task.val))):
        image, labels = task.val[index]
        y, x = inner_point(labels, palette)
        titles = ("image", "truth", "1 x 1: receptive field", "GCN, k = 15") if index == 0 else ("",) * 4
        row = [Panel(titles[0], image), Panel(titles[1], pictures.overlay(image, labels, palette))]
        for name, (network, _, _) in zip(titles[2:], loaded, strict=True):
            field = pictures.valid_receptive_field(network, to_tensor(image), y, x)
            row.append(Panel(name, pictures.heat_over(image, field, y, x)))
        rows.append(row)
        truths.append(labels)
    legend = pictures.legend_of(truths, task.classes, palette)
    pictures.save_figure(out / "receptive_field.png", rows, legend, HEAT)


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, then write tables, plot and receptive fields."""
    parser = Parser(__doc__ or "")
    count = number(int, at_least(1))
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES), help="of the paper (default: all)")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="seeds per network (default: 3)")
    parser.add_argument("--parallel", type=count, default=2, metavar="N", help="runs at once (default: 2)")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="threads of each run (default: 1)")
    parser.add_argument("--report", action="store_true", help="train nothing")
    recipe.add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        extras.check(("torchmetrics", "tensorboard", "tqdm", "matplotlib", "PIL"))
        given = recipe.from_arguments(options)
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    if given.data == "shapes":
        unset = {name: value for name, value in SHORT.items() if getattr(options, name) is None}
        given = replace(given, **unset)
    else:
        try:
            task_of(given)
        except (FileNotFoundError, ImportError, ValueError) as error:
            parser.error(str(error))
    networks = dict.fromkeys(e for table in options.tables for e in TABLES[table])
    jobs = [(e, seed) for seed in range(options.seeds) for e in networks]
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report:
        start = time.monotonic()
        train_all(jobs, given, options.out, options.parallel, options.threads)
        print(f"{len(jobs)} runs in {(time.monotonic() - start) / 60:.1f} minutes")
    results = collect(jobs, options.out)
    text = tables.markdown(results)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "tables.md").write_text(text)
    if results:
        steps = next(iter(results.values()))[0]["steps"]
        tables.plot(results, options.out / "miou_by_k.png", f"{given.data}, {steps} steps, {tables.seeds(options.seeds)}")
    draw_fields(options.out)
    print(text)


if __name__ == "__main__":
    main()
