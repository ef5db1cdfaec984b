"""`python -m runtime.soup WEIGHTS WEIGHTS... --out DIR`: the average of several models' weights, as a model of the same kind.

Models that were trained from the same weights, on other data or with other settings, often lie in one basin, where an average
is better than each (Wortsman et al. 2022). SAIL-VL2 averages such fine-tuned models, and gives the numbers of those that are
not of one family: 74.5 and 75.4 became 12.9 (arXiv:2509.14033, table 5).

A tensor is sum(share * value), in fp64, rounded once to the precision that it came in. The models are added up in the order of
their digests, so the order in which they are given changes no byte. They are read, and the result is written, some million numbers
at a time: neither is ever in memory. The folder appears when it is whole.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import NoReturn

import torch

from runtime import initial, record, tensor_files, weights
from runtime.errors import ArgumentError, CheckpointError, TrainError
from runtime.safetensor import Stored
from runtime.tensor_files import TensorFiles
from runtime.weights import Config, Ingredient
from shards.errors import ShardError

PROGRAM = "mixc soup"
_BLOCK = 1 << 22
"""Numbers at a time: some 80 MB, most of it in fp64."""


@dataclass(frozen=True, slots=True)
class Model:
    """One of the models to average."""

    folder: Path
    config: Config
    weight: float
    """As given: its share is this over the sum of all."""


def soup(folders: Sequence[Path], out: Path, given: Sequence[float] | None = None) -> None:
    """Write the average of the weights in `folders`, which stages were saved in, to a new folder `out`. `given`: the weight of
    each; without, all have the same.

    Raises CheckpointError for weights that are not whole, or not of one model, by the first difference; ArgumentError for weights
    that do not fit, a model that is given twice, or a folder `out` that is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise ArgumentError("something is in this folder already", where=str(out), mend="give another --out")
    models = _models(folders, given)
    first = models[0].config
    total = math.fsum(model.weight for model in models)
    shares = [model.weight / total for model in models]
    with ExitStack() as stack:
        files = [stack.enter_context(tensor_files.opened(model.folder)) for model in models]
        for other in files[1:]:
            _same_tensors(files[0], other)
        stored = {name: files[0].stored(name) for name in sorted(files[0].names)}
        roots = {model.config.root for model in models}
        weights.write(
            out,
            stored,
            _averages(stack, files, stored, [model.weight for model in models]),
            model=first.model,
            geometry=first.geometry,
            root=first.root if len(roots) == 1 else "",
            stage="",
            steps=0,
            precision=first.precision,
            pixel_shuffle=first.pixel_shuffle,
            shared=first.shared,
            soup=[
                Ingredient(weights=own.weights, share=share, root=own.root, stage=own.stage, steps=own.steps)
                for own, share in zip([model.config for model in models], shares, strict=True)
            ],
        )


def _models(folders: Sequence[Path], given: Sequence[float] | None) -> list[Model]:
    """In the order of their digests."""
    if len(folders) < 2:
        raise ArgumentError("an average takes two models or more")
    if given is None:
        given = [1.0] * len(folders)
    if len(given) != len(folders):
        raise ArgumentError(f"{len(given)} weights for {len(folders)} models", where="--weights")
    for weight in given:
        if not 0 < weight < math.inf:
            raise ArgumentError(f"a weight must be above 0, got {weight:g}", where="--weights")
    models = [Model(folder, weights.trusted(folder), weight) for folder, weight in zip(folders, given, strict=True)]
    for other in models[1:]:
        _same_model(models[0], other)
    models.sort(key=lambda model: model.config.weights)
    for one, other in pairwise(models):
        if one.config.weights == other.config.weights:
            raise ArgumentError(
                "the same weights are given twice", where=str(other.folder), why=f"{one.folder} has them, too"
            )
    return models


def _same_model(one: Model, other: Model) -> None:
    for field in ("model", "geometry", "pixel_shuffle", "precision"):
        ours, theirs = getattr(one.config, field), getattr(other.config, field)
        if differences := record.moved(ours, theirs, field):
            raise _another(other.folder, one.folder, differences[0])


def _same_tensors(one: TensorFiles, other: TensorFiles) -> None:
    if odd := one.names ^ other.names:
        raise _another(other.folder, one.folder, f"only one of them has {min(odd)}")
    for name in sorted(one.names):
        (shape, dtype), (its_shape, its_dtype) = one.stored(name), other.stored(name)
        if shape != its_shape:
            raise _another(other.folder, one.folder, f"{name} ({list(shape)} -> {list(its_shape)})")
        if dtype != its_dtype:
            raise _another(other.folder, one.folder, f"{name} ({dtype} -> {its_dtype})")


def _another(where: Path, one: Path, difference: str) -> CheckpointError:
    return CheckpointError(f"not the same model as in {one}", where=str(where), why=f"differs: {difference}")


def _averages(
    stack: ExitStack, files: Sequence[TensorFiles], stored: Mapping[str, Stored], given: Sequence[float]
) -> Iterator[tuple[str, torch.Tensor]]:
    """In pieces of at most `_BLOCK` numbers. Closes `stack`, which has `files`, before it ends: a file that was changed under way
    is known before its average has a name."""
    total = math.fsum(given)
    for name, (_, dtype) in stored.items():
        for start in range(0, stored[name].numel, _BLOCK):
            stop = min(start + _BLOCK, stored[name].numel)
            summed = torch.zeros(stop - start, dtype=torch.float64)
            for file, weight in zip(files, given, strict=True):
                summed += file.part(name, start, stop).double().mul_(weight)
            mean = summed.div_(total)
            if not mean.isfinite().all():
                raise CheckpointError("a weight is not finite", where=name, why="the average would not be")
            yield name, (mean if dtype.is_floating_point else mean.round()).to(dtype)  # counts stay whole numbers
    stack.close()


def warnings(folders: Sequence[Path]) -> list[str]:
    """What speaks against averaging these: two of them that share no weights that they were trained from, as far as the runs
    beside them tell."""
    known = [(folder, *_family(folder)) for folder in folders]
    for (one, its_family, its_whole), (other, family, whole) in combinations(known, 2):
        if its_family & family:
            continue
        if its_whole and whole:
            return [
                f"{one} and {other} were not trained from the same weights: averages of models that are not of one family collapse"
            ]
        odd = other if its_whole else one
        return [
            f"whether {one} and {other} were trained from the same weights is not known, for the history of {odd} is not "
            "complete: averages of models that are not of one family collapse"
        ]
    return []


def _family(folder: Path) -> tuple[set[str], bool]:
    """What the weights in `folder` are and were made from: digests of weights, folders of runs and of released models. Random
    weights are nobody's family. And whether that is all."""
    family: set[str] = set()
    while True:
        config = weights.read_config(folder) if initial.is_ours(initial.read_config(folder)) else None
        if config is None:  # a released model
            return family | {str(folder.resolve())}, (folder / initial.CONFIG).exists()
        if config.weights in family:  # folders that took each other's place
            return family, False
        family.add(config.weights)
        if config.soup:
            return family | {each.weights for each in config.soup}, False
        above = folder.resolve().parents[:2]  # a moving average lies a folder deeper than its stage
        run = next((each for each in above if (each / record.NAME).exists()), None)
        if run is None:
            return family, False
        settled = record.read(run)
        if config.root != settled.root or config.stage not in settled.stages:  # it was moved here
            return family, False
        family.add(str(run))
        if place := settled.stages.index(config.stage):
            folder = run / settled.stages[place - 1]
        elif settled.init is not None:
            folder = Path(settled.init)
        else:
            others = (settled.init_vision, settled.init_language, settled.continues)
            return family | {each for each in others if each is not None}, True


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message, where=PROGRAM, mend=f"see `{PROGRAM} --help`")


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes numbers, as 0.5,0.3,0.2, got {text!r}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    parser = _Parser(prog=PROGRAM, description=__doc__.splitlines()[0].partition(": ")[2])
    parser.add_argument(
        "models", type=Path, nargs="+", metavar="WEIGHTS", help="folders that stages were saved in: RUN/STAGE"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--weights", type=_numbers, metavar="W,W,...", help="of each model, divided by their sum (equal)"
    )
    try:
        arguments = parser.parse_args(argv)
        for warning in warnings(arguments.models):
            print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
        soup(arguments.models, arguments.out, arguments.weights)
    except (TrainError, ShardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or arguments.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{arguments.out}: the average of {len(arguments.models)} models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
