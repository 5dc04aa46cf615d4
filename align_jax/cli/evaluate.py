"""Evaluates a model as the papers do: retrieval, zero-shot classification, kNN, linear probe, classification."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from align_jax.cli.arguments import ArgumentParser

TASKS = ("retrieval", "zero-shot", "knn", "linear-probe", "classification")
EXAMPLES = """examples:
  align-jax evaluate --model M --task retrieval --data coco/dataset_coco.json --images coco
  align-jax evaluate --model M --task zero-shot --data imagenet --classes imagenet/synset_words.txt
  align-jax evaluate --model M --task knn --data imagenet --embeddings imagenet-embeddings --output knn.json
  align-jax evaluate --model V --task classification --data imagenet --real real.json

--data is the folder of the data as it is distributed: ImageNet with train and val, ImageNet-V2, -R or -A, any folder
with a folder for each class; for retrieval Karpathy's JSON or its folder, COCO's or Flickr30k's own file of captions.
For all of them it may be a data set that TFDS or align-jax data has prepared.
docs/evaluation.md states the protocol of each number and what the papers report. Images that do not decode are left
out, counted and named.
Exit status: 0 done, 2 an argument, the model or the data is wrong."""

_LABELLED = ("zero-shot", "knn", "linear-probe", "classification")
_TRAINED = ("knn", "linear-probe")
_HELD_OUT = 0.1
# Options that mean something to some of the tasks only.
_TASKS_OF = {
    "images": ("retrieval",), "captions": ("retrieval",), "fold_size": ("retrieval",), "templates": ("zero-shot",),
    "classes": _LABELLED, "ground_truth": _LABELLED, "real": _LABELLED, "train": _TRAINED, "k": ("knn",),
    "temperature": ("knn",), "l2": ("linear-probe",), "held_out": ("linear-probe",),
    "embeddings": ("retrieval", "zero-shot", "knn", "linear-probe"),
    "text_length": ("retrieval", "zero-shot"),
}  # fmt: skip


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments."""
    parser = ArgumentParser(
        "align-jax evaluate", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", metavar="M", help="a model folder, the workdir of a training, or an id of the Hub")
    add("--task", required=True, choices=TASKS)
    add("--data", required=True, type=Path, metavar="D", help="folder of the data set, or its file of captions")
    add("--split", metavar="NAME", help="folder or split of the data (default: val, validation; for retrieval test)")
    add("--output", type=Path, metavar="FILE.json", help="write all numbers, settings and left-out images as JSON")
    add(
        "--embeddings", type=Path, nargs="+", metavar="DIR", help="folders of align-jax embed with the images of --data"
    )
    labels = parser.add_argument_group("classes")
    add = labels.add_argument
    add("--classes", type=Path, metavar="FILE", help="synsets and names, or names, of all classes, one a line or JSON")
    add("--ground-truth", type=Path, metavar="FILE", help="labels of validation images that lie in one folder")
    add("--real", type=Path, metavar="FILE", help="real.json: report the ReaL labels as well")
    add("--templates", type=Path, metavar="FILE", help="sentences with {} for the class name (default: twelve of ours)")
    learned = parser.add_argument_group("kNN and linear probe")
    add = learned.add_argument
    add("--train", metavar="NAME", help="folder in --data with the training images (default: train)")
    add("--k", type=int, nargs="+", metavar="K", help="numbers of neighbours (default: 1 5 10 20 50 100 200)")
    add("--temperature", type=float, metavar="T", help="votes weigh exp(cosine / T) (default: 0.07)")
    add("--l2", type=float, nargs="+", metavar="L", help="penalties to try (default: 1e-2 … 1e-8)")
    add("--held-out", type=float, metavar="SHARE", help="of the training images, chooses the penalty (default: 0.1)")
    captions = parser.add_argument_group("retrieval")
    add = captions.add_argument
    add("--images", type=Path, metavar="DIR", help="folder of the images of Karpathy's JSON (default: that of --data)")
    add("--captions", metavar="N|all", help="captions of each image that count, the first N (default: 5)")
    add("--fold-size", type=int, metavar="N", help="images of a fold; 0 for none (default: 1000)")
    computing = parser.add_argument_group("computing")
    add = computing.add_argument
    add("--batch-size", type=int, default=32, metavar="N", help="inputs computed at once (default: %(default)s)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)")
    add("--weights", choices=("ema", "raw"), default="ema", help="of a workdir (default: %(default)s)")
    add("--text-length", type=int, metavar="N", help="most tokens of a text (default: the model's)")
    add("--revision", help="branch, tag or commit of a model on the Hub")
    add("--confidence", type=float, default=0.95, metavar="P", help="of the intervals (default: %(default)s)")
    add("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default: %(default)s)")
    add("--seed", type=int, default=0, help="of bootstrap and held-out part (default: %(default)s)")
    arguments = parser.parse_args(argv)
    _check(arguments, parser)
    return arguments


def _check(arguments: argparse.Namespace, parser: ArgumentParser) -> None:
    for name, tasks in _TASKS_OF.items():
        if getattr(arguments, name) is not None and arguments.task not in tasks:
            parser.error(f"--{name.replace('_', '-')} goes with {' or '.join(tasks)}, not with {arguments.task}")
    if arguments.model is None and (arguments.task not in _TRAINED or arguments.embeddings is None):
        parser.error("--model is needed, unless kNN or a linear probe finds all it needs in --embeddings")
    for name in ("batch_size", "text_length", "resamples", "temperature", "k", "l2"):
        value = getattr(arguments, name)
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            if not 0 < one < math.inf:
                parser.error(f"--{name.replace('_', '-')} {one} is not positive and finite; use another one")
    if arguments.held_out is not None and not 0 < arguments.held_out < 1:
        parser.error(f"--held-out {arguments.held_out} is not between 0 and 1; use 0.1")
    if arguments.seed < 0:
        parser.error(f"--seed {arguments.seed} is negative; use 0 or more")
    if not 0 < arguments.confidence < 1:
        parser.error(f"--confidence {arguments.confidence} is not between 0 and 1; use 0.95")
    if arguments.fold_size is not None and arguments.fold_size < 0:
        parser.error(f"--fold-size {arguments.fold_size} is negative; use 0 for no folds")
    captions = arguments.captions or "5"
    if captions != "all" and not (captions.isdecimal() and int(captions) > 0):
        parser.error(f"--captions {captions} is neither a number from 1 nor all")
    arguments.captions = None if captions == "all" else int(captions)


def main(argv: Sequence[str]) -> int:
    """Parses, evaluates, prints, and returns the exit status."""
    arguments = parse(argv)

    from align_jax.evaluation.estimates import Bootstrap  # noqa: PLC0415  (heavy, after the help)
    from align_jax.evaluation.report import as_json, table, write_json  # noqa: PLC0415
    from align_jax.evaluation.requirements import require_writable  # noqa: PLC0415

    if arguments.output:
        require_writable(arguments.output)
    bootstrap = Bootstrap(arguments.confidence, arguments.resamples, arguments.seed)
    run = {"retrieval": _retrieval, "classification": _classification}.get(arguments.task, _labelled)
    outcome, settings, bad_images = run(arguments, bootstrap)
    folders = [str(folder) for folder in arguments.embeddings or ()]
    data = {"data": str(arguments.data), "split": arguments.split, "embeddings": folders}
    settings = {"model": arguments.model, **settings, **data}
    report = as_json(arguments.task, settings, outcome.results, outcome.details, bad_images, bootstrap)
    print(table(outcome.results, bootstrap))
    for name, value in outcome.details.items():
        print(f"{name.replace('_', ' ')}: {value}" if not isinstance(value, list) else f"{name}: {len(value)}")
    if bad_images:
        shown = "; ".join(f"{name}: {reason}" for name, reason in bad_images[:3])
        more = f"; and {len(bad_images) - 3} more" if len(bad_images) > 3 else ""
        count = "1 image was" if len(bad_images) == 1 else f"{len(bad_images)} images were"
        print(f"{count} left out: {shown}{more}", file=sys.stderr)
    if arguments.output:
        write_json(arguments.output, report)
    return 0


_Run = tuple[Any, dict[str, Any], list[tuple[str, str]]]


def _retrieval(arguments: argparse.Namespace, bootstrap: Any) -> _Run:
    from align_jax.data.benchmarks import open_captioned  # noqa: PLC0415  (heavy, after the help)
    from align_jax.evaluation import tasks  # noqa: PLC0415
    from align_jax.parallel.mesh import MeshShape  # noqa: PLC0415

    data = open_captioned(arguments.data, images=arguments.images, split=arguments.split)
    arguments.split = data.split
    embedder = _embedder(arguments)
    features = _features(arguments, embedder, data.images, "images")
    fold_size = 1000 if arguments.fold_size is None else arguments.fold_size or None
    outcome = tasks.retrieval(
        data, features, _text_embedding(embedder, "captions"), bootstrap, MeshShape().build(),
        captions_per_image=arguments.captions, fold_size=fold_size,
    )  # fmt: skip
    return outcome, {"digest": embedder.digest, "captions_per_image": arguments.captions}, features.bad_images


def _labelled(arguments: argparse.Namespace, bootstrap: Any) -> _Run:
    """Zero-shot classification, kNN and linear probe."""
    from align_jax.evaluation import tasks  # noqa: PLC0415  (heavy, after the help)
    from align_jax.evaluation.knn import NEIGHBOURS, TEMPERATURE  # noqa: PLC0415
    from align_jax.evaluation.linear_probe import L2_SWEEP  # noqa: PLC0415
    from align_jax.evaluation.prompts import TEMPLATES, read_templates  # noqa: PLC0415
    from align_jax.parallel.mesh import MeshShape  # noqa: PLC0415

    data, real = _open_labelled(arguments)
    templates = read_templates(arguments.templates) if arguments.templates else TEMPLATES
    train = _open_train(arguments, data)
    embedder = None if arguments.model is None else _embedder(arguments)
    mesh = MeshShape().build()
    features = _features(arguments, embedder, data.images, "images")
    settings = {"digest": embedder and embedder.digest}
    if train is None:
        embed_texts = _text_embedding(embedder, "sentences")
        outcome = tasks.zero_shot(data, features, embed_texts, templates, bootstrap, mesh, real=real)
        return outcome, settings, features.bad_images
    pair = (train, _features(arguments, embedder, train.images, "training images"))
    bad_images = features.bad_images + pair[1].bad_images
    if arguments.task == "knn":
        ks = arguments.k or [k for k in NEIGHBOURS if k <= len(pair[1].rows)]
        temperature = arguments.temperature or TEMPERATURE
        with _progress("neighbours", len(features.rows)) as advance:
            outcome = tasks.knn(
                pair, data, features, ks, temperature, bootstrap, mesh, real=real, advance=advance
            )  # fmt: skip
        return outcome, settings, bad_images
    l2_sweep = tuple(arguments.l2 or L2_SWEEP)
    with _progress("fits", len(l2_sweep) + 1) as advance:
        outcome = tasks.linear_probe(
            pair, data, features, bootstrap, mesh, l2_sweep=l2_sweep, seed=arguments.seed, real=real, advance=advance,
            held_out_fraction=arguments.held_out or _HELD_OUT,
        )  # fmt: skip
    return outcome, settings, bad_images


def _classification(arguments: argparse.Namespace, bootstrap: Any) -> _Run:
    """A classifier's own classes."""
    from align_jax.evaluation import tasks  # noqa: PLC0415  (heavy, after the help)
    from align_jax.evaluation.features import score_images  # noqa: PLC0415
    from align_jax.inference.classifier import Classifier  # noqa: PLC0415
    from align_jax.parallel.mesh import MeshShape  # noqa: PLC0415

    data, real = _open_labelled(arguments)
    classifier = Classifier.from_pretrained(
        arguments.model, batch_size=arguments.batch_size, dtype=arguments.dtype, weights=arguments.weights,
        revision=arguments.revision,
    )  # fmt: skip
    labels = classifier.config.id2label
    tasks.class_columns(data.classes, labels)  # what does not fit is said before an hour of work
    with _progress("images", len(data.images)) as advance:
        scores = score_images(classifier, data.images, advance)
    outcome = tasks.classification(data, scores, labels, bootstrap, MeshShape().build(), real=real)
    return outcome, {"digest": classifier.digest}, scores.bad_images


def _open_labelled(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The data and, where they are asked for, the ReaL labels of its images."""
    from align_jax.data.benchmarks import open_labelled, read_real, real_labels  # noqa: PLC0415

    data = open_labelled(
        arguments.data, split=arguments.split, classes=arguments.classes, ground_truth=arguments.ground_truth
    )
    arguments.split = data.split
    real = arguments.real and real_labels(read_real(arguments.real), data.images.ids, data.classes)
    return data, real


def _open_train(arguments: argparse.Namespace, data: Any) -> Any:
    """The training images where the task needs some; what the task lacks is said here, before anything is computed."""
    from align_jax.data.benchmarks import BenchmarkError, open_labelled  # noqa: PLC0415  (heavy, after the help)
    from align_jax.evaluation import requirements  # noqa: PLC0415

    if arguments.task not in _TRAINED:
        requirements.require_names(data.classes)
        return None
    name = arguments.train or "train"
    if name == data.split:
        raise BenchmarkError(f"{name} is both evaluated and trained on; name another with --split or --train")
    train = open_labelled(arguments.data, split=name, classes=arguments.classes)
    requirements.require_same_classes(train.classes, data.classes)
    requirements.require_neighbours(arguments.k or (), len(train.images))
    if arguments.task == "linear-probe":
        requirements.require_held_out(arguments.held_out or _HELD_OUT, len(train.images))
    return train


def _embedder(arguments: argparse.Namespace) -> Any:
    from align_jax.inference.embedder import Embedder  # noqa: PLC0415  (heavy, after the help)

    return Embedder.from_pretrained(
        arguments.model, batch_size=arguments.batch_size, dtype=arguments.dtype, weights=arguments.weights,
        text_length=arguments.text_length, revision=arguments.revision,
    )  # fmt: skip


def _features(arguments: argparse.Namespace, embedder: Any, images: Any, title: str) -> Any:
    from align_jax.evaluation.features import embed_images, read_features  # noqa: PLC0415  (heavy, after the help)

    if arguments.embeddings:
        return read_features(arguments.embeddings, images, embedder and embedder.digest)
    with _progress(title, len(images)) as advance:
        return embed_images(embedder, images, advance)


def _text_embedding(embedder: Any, title: str) -> Callable[[Sequence[str]], Any]:
    from align_jax.evaluation.features import embed_texts  # noqa: PLC0415  (heavy, after the help)

    def embed(texts: Sequence[str]) -> Any:
        with _progress(title, len(texts)) as advance:
            return embed_texts(embedder, texts, advance)

    return embed


def _progress(title: str, total: int) -> Any:
    from rich.console import Console  # noqa: PLC0415  (heavy, after the help)

    from align_jax.progress import progress  # noqa: PLC0415

    return progress(title, total, Console(stderr=True), unit=title)
