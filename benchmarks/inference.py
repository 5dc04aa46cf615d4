"""Image files and texts to saved embeddings on this machine: ours beside `transformers`, ONNX Runtime and OpenVINO.

The model is EfficientNet-B7 with BERT-base, random weights, float32. Images are JPEG files of 640 x 480 pixels; texts
fill 64 tokens. Every variant runs in a process of its own on the same cores, in batches of the same size: whole, from
files to saved embeddings, and its model alone. Engines that are not installed are left out, and the table says so.
The last column is the largest difference between an engine's embeddings, of unit length, and those of torch.

    python benchmarks/inference.py --threads 2 --batch-size 32
    python benchmarks/inference.py --threads 1 --clock cpu         # where other work runs beside it
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

VARIANTS = {
    "align_jax": "align_jax",
    "transformers, torch eager": "torch",
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
    "transformers, torch.compile bfloat16 (GPU)": "torch",
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TEXT_LENGTH = 64
IMAGE_SHAPE = (480, 640)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--texts", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores to run on")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: seconds of the cores, for a machine that is shared"
    )
    parser.add_argument("--only", choices=list(VARIANTS), action="append", help="variants to run (default: all)")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    if arguments.variant:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), arguments)
        rows = {variant: in_own_process(arguments, variant, folder) for variant in arguments.only or VARIANTS}
    settings = f"{arguments.threads} core(s), batches of {arguments.batch_size}, {arguments.clock} clock"
    print(f"{settings}; milliseconds each, times transformers\n")
    print("| engine | image, whole | | image, model | | text, whole | | text, model | | waiting for images | differs |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    base = rows.get("transformers, torch eager", {})
    for variant, row in rows.items():
        print(table_row(variant, row, base))


def table_row(variant: str, row: dict[str, Any], base: dict[str, Any]) -> str:
    """One engine's line."""
    if "reason" in row:
        return f"| {variant} | {row['reason']} |" + " |" * 9
    cells = []
    for name in ("images", "images_model", "texts", "texts_model"):
        ratio = f"{base[name] / row[name]:.2f}×" if name in base else ""
        cells += [f"{1e3 * row[name]:.1f}", ratio]
    waiting = f"{100 * row['waiting']:.1f} %" if "waiting" in row else ""
    pairs = zip(row["embeddings"], base.get("embeddings", ()), strict=False)
    differs = max((np.abs(own - other).max() for own, other in pairs), default=np.nan)
    return f"| {variant} | {' | '.join(cells)} | {waiting} | {differs:.0e} |"


def in_own_process(arguments: argparse.Namespace, variant: str, folder: str) -> dict[str, Any]:
    """What a variant measured, or the reason why it was not run."""
    if importlib.util.find_spec(VARIANTS[variant]) is None:
        return {"reason": f"not run: {VARIANTS[variant]} is not installed"}
    command = [sys.executable, __file__, "--variant", variant, "--folder", folder]
    for name in ("images", "texts", "batch_size", "threads", "repeats", "clock"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"reason": f"failed: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}"}
    print(f"{variant}: {done.stdout.splitlines()[-1]}", file=sys.stderr, flush=True)
    row = json.loads(done.stdout.splitlines()[-1])
    if "reason" not in row:
        row["embeddings"] = [np.load(Path(folder) / f"{name}.npy") for name in ("images", "texts")]
    return row


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one variant."""
    files = sorted((arguments.folder / "images").iterdir())
    texts = (arguments.folder / "texts.txt").read_text().splitlines()
    if arguments.variant == "align_jax":
        return measure_ours(arguments, files, texts)
    import torch

    if "GPU" in arguments.variant and not torch.cuda.is_available():
        return {"reason": "not run: no GPU"}
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        return measure_theirs(arguments, files, texts)


# Ours -----------------------------------------------------------------------------------------------------------------


def measure_ours(arguments: argparse.Namespace, files: list[Path], texts: list[str]) -> dict[str, Any]:
    """Seconds for each image and text, and the share of time that the device waited for images."""
    from align_jax.inference.embedder import Embedder
    from align_jax.inference.prefetch import Timings

    embedder = Embedder.from_pretrained(arguments.folder / "model", batch_size=arguments.batch_size)
    squares = np.stack([embedder.preprocessing.square(path.read_bytes()) for path in files])
    valid = np.ones(arguments.batch_size, np.bool_)
    timings = Timings()

    def images() -> None:
        items = ((path.name, path.read_bytes()) for path in files)
        parts = [embeddings for _, embeddings, _ in embedder.stream_images(items, timings)]
        np.save(arguments.folder / "images.npy", np.concatenate(parts))

    def images_model() -> None:
        for batch in batches(squares, arguments.batch_size):
            embedder._encoder.start_images(embedder._variables, batch, valid)()

    def texts_whole() -> None:
        np.save(arguments.folder / "texts.npy", embedder.texts(texts))

    tokens = embedder._encoder.tokenize(texts)
    return {
        "images": fastest(images, arguments) / len(files),
        "images_model": fastest(images_model, arguments) / len(files),
        "texts": fastest(texts_whole, arguments) / len(texts),
        "texts_model": fastest(lambda: embedder._encoder.tokens(embedder._variables, *tokens), arguments) / len(texts),
        "waiting": timings.waiting_share,
    }


# Theirs ---------------------------------------------------------------------------------------------------------------


def measure_theirs(arguments: argparse.Namespace, files: list[Path], texts: list[str]) -> dict[str, Any]:
    """Seconds for each image and text through the processor of `transformers` and one of the engines."""
    from PIL import Image

    from align_jax.inference.processor import AlignProcessor

    processor = AlignProcessor.from_pretrained(arguments.folder / "model")
    encode_images, encode_texts = engine(arguments)

    def pixels(batch: list[Path]) -> np.ndarray:
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(Image.open(path)) for path in batch]
            return np.asarray(processor.image_processor(opened, return_tensors="np")["pixel_values"])

    def tokens(batch: list[str]) -> tuple[np.ndarray, np.ndarray]:
        options = {"padding": "max_length", "max_length": TEXT_LENGTH, "truncation": True, "return_tensors": "np"}
        encoded = processor.tokenizer(batch, **options)
        return encoded["input_ids"].astype(np.int64), encoded["attention_mask"].astype(np.int64)

    def images() -> None:
        parts = [encode_images(pixels(batch)) for batch in batches(files, arguments.batch_size)]
        np.save(arguments.folder / "images.npy", unit_length(np.concatenate(parts)))

    def texts_whole() -> None:
        parts = [encode_texts(*tokens(batch)) for batch in batches(texts, arguments.batch_size)]
        np.save(arguments.folder / "texts.npy", unit_length(np.concatenate(parts)))

    ready_pixels = [pixels(batch) for batch in batches(files, arguments.batch_size)]
    ready_tokens = [tokens(batch) for batch in batches(texts, arguments.batch_size)]
    return {
        "images": fastest(images, arguments) / len(files),
        "images_model": fastest(lambda: [encode_images(each) for each in ready_pixels], arguments) / len(files),
        "texts": fastest(texts_whole, arguments) / len(texts),
        "texts_model": fastest(lambda: [encode_texts(*each) for each in ready_tokens], arguments) / len(texts),
    }


def engine(arguments: argparse.Namespace) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    """What embeds pixels [B 3 H W], and what embeds token ids and mask [B T]."""
    import torch
    import transformers

    on_gpu = "GPU" in arguments.variant
    types: dict[str, Any] = {"dtype": torch.bfloat16} if on_gpu else {}
    model: Any = transformers.AlignModel.from_pretrained(arguments.folder / "model", **types).eval()
    device = "cuda" if on_gpu else "cpu"
    model.to(device)

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model  # the exporter must see whose the weights are

    class Images(Tower):
        def forward(self, pixel_values: Any) -> Any:
            # What the pooler gives; OpenVINO does not read its average over 640 px of a map of 9.
            return self.model.vision_model(pixel_values=pixel_values).last_hidden_state.mean(dim=(2, 3))

    class Texts(Tower):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return self.model.text_projection(hidden[:, 0])

    towers = (Images().eval(), Texts().eval())
    if arguments.variant in ("ONNX Runtime", "OpenVINO"):
        return exported(arguments, towers)
    if on_gpu:
        towers = tuple(torch.compile(tower) for tower in towers)

    def run(tower: Any) -> Callable[..., np.ndarray]:
        def call(*inputs: np.ndarray) -> np.ndarray:
            tensors = [torch.from_numpy(array).to(device) for array in inputs]
            tensors = [
                tensor.to(torch.bfloat16) if on_gpu and tensor.is_floating_point() else tensor for tensor in tensors
            ]
            return tower(*tensors).float().cpu().numpy()

        return call

    return run(towers[0]), run(towers[1])


def exported(
    arguments: argparse.Namespace, towers: tuple[Any, Any]
) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    """The towers as ONNX files, run by one of the engines for such files."""
    import torch

    rows = arguments.batch_size
    tokens = torch.ones(rows, TEXT_LENGTH, dtype=torch.int64)
    examples = {"image": (torch.zeros(rows, 3, 289, 289),), "text": (tokens, tokens)}
    calls = []
    for tower, (name, example) in zip(towers, examples.items(), strict=True):
        path = arguments.folder / f"{name}.onnx"
        if not path.exists():
            names = ["pixel_values"] if name == "image" else ["input_ids", "attention_mask"]
            torch.onnx.export(tower, example, str(path), input_names=names, dynamo=False)
        calls.append(run_onnx(path, arguments))
    return calls[0], calls[1]


def run_onnx(path: Path, arguments: argparse.Namespace) -> Callable[..., np.ndarray]:
    """A function of an ONNX file's inputs, in order."""
    if arguments.variant == "OpenVINO":
        openvino: Any = importlib.import_module("openvino")

        options = {"INFERENCE_NUM_THREADS": arguments.threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(path), "CPU", options)
        return lambda *inputs: compiled(list(inputs))[0]
    onnxruntime: Any = importlib.import_module("onnxruntime")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0]


# Shared ---------------------------------------------------------------------------------------------------------------


def prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """Writes the model in the form of `transformers`, image files and texts."""
    from PIL import Image

    from align_jax.configuration import AlignConfig
    from align_jax.conversion.align import abstract_variables
    from align_jax.conversion.model_folder import write_hf
    from align_jax.data.preprocessing import Preprocessing

    rng = np.random.default_rng(0)
    config, model = AlignConfig.b7_base(), folder / "model"
    (folder / "images").mkdir()
    model.mkdir()
    write_hf(config, drawn(abstract_variables(config), rng), model)
    Preprocessing(mode="hf").to_folder(model)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(30_517))]
    (model / "vocab.txt").write_text("\n".join(words) + "\n")
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    lines = (" ".join(rng.choice(words[5:], TEXT_LENGTH)) for _ in range(arguments.texts))
    (folder / "texts.txt").write_text("\n".join(lines) + "\n")
    for number in range(arguments.images):
        rough = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        buffer = io.BytesIO()
        rough.resize(IMAGE_SHAPE[::-1], Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        (folder / "images" / f"{number:05d}.jpg").write_bytes(buffer.getvalue())


def drawn(shapes: Any, rng: np.random.Generator) -> Any:
    """Random weights that keep activations of order one, so that no number is too small to be computed quickly.

    With larger factors in front of the residual sums, rounding grows from block to block, and no two engines agree.
    """
    import jax

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        if leaf.ndim == 1 and "bias" not in name and "mean" not in name:
            low, high = (0.15, 0.45) if "project_norm" in name and "scale" in name else (0.5, 1.5)
            return rng.uniform(low, high, leaf.shape).astype(np.float32)
        if "kernel" not in name:
            return rng.standard_normal(leaf.shape, np.float32) * np.float32(0.1) + np.float32(leaf.ndim == 0)
        spread = (2 if "image" in name else 1) ** 0.5 / np.prod(leaf.shape[:-1]) ** 0.5
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(spread * (2 if "'project'" in name else 1))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def batches(items: Any, size: int) -> Iterator[Any]:
    """Whole batches only: engines with fixed shapes take no others."""
    for start in range(0, len(items) - size + 1, size):
        yield items[start : start + size]


def fastest(run: Callable[[], Any], arguments: argparse.Namespace) -> float:
    """Seconds of the fastest run, after one that is not timed."""
    clock = CLOCKS[arguments.clock]
    run()
    seconds = []
    for _ in range(arguments.repeats):
        began = clock()
        run()
        seconds.append(clock() - began)
    return min(seconds)


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Divided by their Euclidean norms."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
