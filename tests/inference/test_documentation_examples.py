"""The examples of transformers' ALIGN page run on these models after their import line is changed, and nothing else.

The calls are those of the page in 4.37 and in 5.x. `kakaobrain/align-base` is a folder of that name in the working
directory, and the picture comes from a file.
"""

import io
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from align_jax import AlignConfig
from tests.inference.tiny_align import assert_same, reference_model, write_folder

pytestmark = pytest.mark.filterwarnings("ignore:`max_length` is ignored")  # of padding=True, in transformers


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("directory")
    write_folder(directory / "kakaobrain" / "align-base")
    levels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(levels).save(directory / "cats.png")
    return directory


@pytest.fixture
def run(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs an example and returns its variables."""
    requests: Any = types.ModuleType("requests")

    def get(url: str, stream: bool) -> Any:
        assert url.startswith("http")
        assert stream
        return types.SimpleNamespace(raw=io.BytesIO((directory / "cats.png").read_bytes()))

    requests.get = get
    monkeypatch.setitem(sys.modules, "requests", requests)
    monkeypatch.setattr("transformers.image_utils.load_image", lambda url: Image.open(directory / "cats.png"))
    monkeypatch.chdir(directory)

    def run_example(example: str) -> dict[str, Any]:
        namespace: dict[str, Any] = {}
        exec(example, namespace)
        return namespace

    return run_example


def expected(method: str = "__call__", **inputs: torch.Tensor) -> Any:
    with torch.no_grad():
        return getattr(reference_model(), method)(**inputs)


USAGE = """
import requests
import torch
from PIL import Image
from align_jax import AlignProcessor, AlignModel

processor = AlignProcessor.from_pretrained("kakaobrain/align-base")
model = AlignModel.from_pretrained("kakaobrain/align-base")

url = "http://images.cocodataset.org/val2017/000000039769.jpg"
image = Image.open(requests.get(url, stream=True).raw)
candidate_labels = ["an image of a cat", "an image of a dog"]

inputs = processor(text=candidate_labels, images=image, return_tensors="pt")

with torch.no_grad():
    outputs = model(**inputs)

logits_per_image = outputs.logits_per_image
probs = logits_per_image.softmax(dim=1)
print(probs)
"""


def test_usage(run: Any) -> None:
    found = run(USAGE)
    assert_same(found["outputs"], expected(**found["inputs"]))
    torch.testing.assert_close(found["probs"].sum(dim=1), torch.ones(1))
    assert found["probs"].shape == (1, 2)


# Of the page in 5.x, whose class is chosen by the folder; the class that it chooses is AlignModel.
ZERO_SHOT = """
import torch
import requests
from PIL import Image
from align_jax import AlignProcessor as AutoProcessor, AlignModel as AutoModelForZeroShotImageClassification

processor = AutoProcessor.from_pretrained("kakaobrain/align-base")
model = AutoModelForZeroShotImageClassification.from_pretrained("kakaobrain/align-base", device_map="auto")

url = "https://huggingface.co/datasets/huggingface/documentation-images/resolve/main/pipeline-cat-chonk.jpeg"
image = requests.get(url, stream=True)
inputs = Image.open(image.raw).convert("RGB")

image_inputs = processor(images=inputs, return_tensors="pt").to(model.device)
with torch.no_grad():
    image_embeds = model.get_image_features(**image_inputs)

candidate_labels = ["a photo of a dog", "a photo of a cat", "a photo of a person"]
text_inputs = processor(text=candidate_labels, padding=True, return_tensors="pt").to(model.device)
with torch.no_grad():
    text_embeds = model.get_text_features(**text_inputs)

image_embeds = image_embeds / image_embeds.norm(p=2, dim=-1, keepdim=True)
text_embeds = text_embeds / text_embeds.norm(p=2, dim=-1, keepdim=True)

logits = (image_embeds @ text_embeds.T) * 100.0
probs = logits.softmax(dim=-1).cpu().squeeze()

for label, score in zip(candidate_labels, probs):
    print(f"{label:20s} {score.item():.4f}")
"""


def test_zero_shot_classification(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(ZERO_SHOT)
    outputs = expected(**found["image_inputs"], **found["text_inputs"])
    assert_same(found["image_embeds"], outputs.image_embeds)
    assert_same(found["text_embeds"], outputs.text_embeds)
    assert len(capsys.readouterr().out.splitlines()) == 3


CONFIGURATIONS = """
from align_jax import AlignConfig, AlignModel

configuration = AlignConfig()
model = AlignModel(configuration)
configuration = model.config

from align_jax import AlignTextConfig, AlignVisionConfig

config_text = AlignTextConfig()
config_vision = AlignVisionConfig()

config = AlignConfig.from_text_vision_configs(config_text, config_vision)
newer = AlignConfig(text_config=config_text, vision_config=config_vision)
"""


def test_configurations(run: Any) -> None:
    found = run(CONFIGURATIONS)
    assert found["config"] == found["newer"] == found["configuration"]
    assert found["config"] == found["model"].config == AlignConfig.from_dict(transformers.AlignConfig().to_dict())
    assert sum(leaf.size for leaf in jax.tree.leaves(found["model"].params)) == 172_117_841


TEXT_CONFIGURATION = """
from align_jax import AlignTextConfig, AlignTextModel

configuration = AlignTextConfig()
model = AlignTextModel(configuration)
configuration = model.config
"""

VISION_CONFIGURATION = """
from align_jax import AlignVisionConfig, AlignVisionModel

configuration = AlignVisionConfig()
model = AlignVisionModel(configuration)
configuration = model.config
"""


@pytest.mark.parametrize(("example", "width"), [(TEXT_CONFIGURATION, 768), (VISION_CONFIGURATION, 640)])
def test_towers_configurations(run: Any, example: str, width: int) -> None:
    found = run(example)
    feature_size = getattr(found["configuration"], "hidden_size", None) or found["configuration"].feature_size
    assert feature_size == width


GET_TEXT_FEATURES = """
from transformers import AutoTokenizer
from align_jax import AlignModel

model = AlignModel.from_pretrained("kakaobrain/align-base")
tokenizer = AutoTokenizer.from_pretrained("kakaobrain/align-base")

inputs = tokenizer(["a photo of a cat", "a photo of a dog"], padding=True, return_tensors="pt")
text_features = model.get_text_features(**inputs)
"""


def test_get_text_features(run: Any) -> None:
    found = run(GET_TEXT_FEATURES)
    assert_same(found["text_features"], expected("get_text_features", **found["inputs"]).pooler_output)


GET_IMAGE_FEATURES = """
import torch
from transformers import AutoProcessor
from align_jax import AlignModel
from transformers.image_utils import load_image

model = AlignModel.from_pretrained("kakaobrain/align-base")
processor = AutoProcessor.from_pretrained("kakaobrain/align-base")

url = "http://images.cocodataset.org/val2017/000000039769.jpg"
image = load_image(url)

inputs = processor(images=image, return_tensors="pt")
with torch.inference_mode():
    image_features = model.get_image_features(**inputs)
"""


def test_get_image_features(run: Any) -> None:
    found = run(GET_IMAGE_FEATURES)
    assert_same(found["image_features"], expected("get_image_features", **found["inputs"]).pooler_output)


FORWARD = """
from PIL import Image
import requests
from align_jax import AlignProcessor as AutoProcessor, AlignModel

model = AlignModel.from_pretrained("kakaobrain/align-base")
processor = AutoProcessor.from_pretrained("kakaobrain/align-base")

url = "http://images.cocodataset.org/val2017/000000039769.jpg"
image = Image.open(requests.get(url, stream=True).raw)

inputs = processor(
    text=["a photo of a cat", "a photo of a dog"], images=image, return_tensors="pt", padding=True
)

outputs = model(**inputs)
logits_per_image = outputs.logits_per_image
probs = logits_per_image.softmax(dim=1)
"""


def test_forward(run: Any) -> None:
    found = run(FORWARD)
    assert_same(found["outputs"], expected(**found["inputs"]))
    assert_same(found["probs"], expected(**found["inputs"]).logits_per_image.softmax(dim=1))


TEXT_FORWARD = """
from transformers import AutoTokenizer
from align_jax import AlignTextModel

model = AlignTextModel.from_pretrained("kakaobrain/align-base")
tokenizer = AutoTokenizer.from_pretrained("kakaobrain/align-base")

inputs = tokenizer(["a photo of a cat", "a photo of a dog"], padding=True, return_tensors="pt")

outputs = model(**inputs)
last_hidden_state = outputs.last_hidden_state
pooled_output = outputs.pooler_output
"""

VISION_FORWARD = """
from PIL import Image
import requests
from align_jax import AlignProcessor as AutoProcessor, AlignVisionModel

model = AlignVisionModel.from_pretrained("kakaobrain/align-base")
processor = AutoProcessor.from_pretrained("kakaobrain/align-base")

url = "http://images.cocodataset.org/val2017/000000039769.jpg"
image = Image.open(requests.get(url, stream=True).raw)

inputs = processor(images=image, return_tensors="pt")

outputs = model(**inputs)
last_hidden_state = outputs.last_hidden_state
pooled_output = outputs.pooler_output
"""


@pytest.mark.parametrize(("example", "tower"), [(TEXT_FORWARD, "text_model"), (VISION_FORWARD, "vision_model")])
def test_towers_forward(run: Any, example: str, tower: str) -> None:
    found = run(example)
    with torch.no_grad():
        theirs = getattr(reference_model(), tower)(**found["inputs"])
    assert_same(found["outputs"], theirs)
    assert_same(found["last_hidden_state"], theirs.last_hidden_state)
    assert_same(found["pooled_output"], theirs.pooler_output)


# In JAX from end to end, as the README has it.
IN_JAX = """
import jax
from PIL import Image
from align_jax import AlignModel, AlignProcessor

model = AlignModel.from_pretrained("kakaobrain/align-base")
processor = AlignProcessor.from_pretrained("kakaobrain/align-base")
inputs = processor(text=["a cat", "a dog"], images=Image.open("cats.png"), return_tensors="np")
outputs = model(**inputs)
probs = jax.nn.softmax(outputs.logits_per_image, axis=1)
"""


def test_in_jax(run: Any) -> None:
    found = run(IN_JAX)
    theirs = expected(**{name: torch.from_numpy(values) for name, values in found["inputs"].items()})
    assert_same(found["probs"], theirs.logits_per_image.softmax(dim=1))
