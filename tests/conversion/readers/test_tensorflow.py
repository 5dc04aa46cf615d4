"""TensorFlow's checkpoints: which tensors are weights, and, where TensorFlow is installed, real and damaged files."""

import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from align_jax.conversion.readers import SourceError, TensorInfo
from align_jax.conversion.readers.tensorflow import TensorflowCheckpoint, names_from_graph, names_from_keys

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
KERNEL = f"image_encoder/layer_with_weights-0/kernel{VALUE}"
SLOT = f"image_encoder/layer_with_weights-0/kernel/.OPTIMIZER_SLOT/optimizer/m{VALUE}"


def graph(names, slots=()):
    """A graph with a node for each key; `slots` are pairs of keys, the weight's and the slot's."""
    keys = list(names)
    nodes = [
        SimpleNamespace(
            attributes=[SimpleNamespace(name="VARIABLE_VALUE", full_name=name, checkpoint_key=key)], slot_variables=[]
        )
        for key, name in names.items()
    ]
    optimizer = SimpleNamespace(
        attributes=[],
        slot_variables=[
            SimpleNamespace(
                original_variable_node_id=keys.index(weight),
                slot_name="m",
                slot_variable_node_id=keys.index(slot),
            )
            for weight, slot in slots
        ],
    )
    return SimpleNamespace(nodes=[*nodes, optimizer])


def test_graph_gives_variables_their_names():
    names = {KERNEL: "stem_conv/kernel", f"temperature{VALUE}": "temperature"}
    found = names_from_graph(graph(names), names)
    assert found.keys == {"stem_conv/kernel": KERNEL, "temperature": f"temperature{VALUE}"}
    assert found.ignored == {}


def test_slots_are_known_by_the_graph_whatever_their_keys():
    names = {KERNEL: "stem_conv/kernel", "x/y": "LAMB/stem_conv/kernel/m", "free": "free"}
    found = names_from_graph(graph(names, [(KERNEL, "x/y")]), names)
    assert found.keys == {"stem_conv/kernel": KERNEL, "free": "free"}
    assert found.ignored == {"x/y": "optimizer state, which the model does not have"}


@pytest.mark.parametrize(
    ("key", "name", "reason"),
    [
        (SLOT, "", "optimizer"),
        (f"optimizer/iter{VALUE}", "LAMB/iter", "optimizer"),
        (f"model/optimizer/learning_rate{VALUE}", "learning_rate", "optimizer"),
        (f"optimizer/_variables/3{VALUE}", "lamb/stem_conv_kernel_m", "optimizer"),
        (f"save_counter{VALUE}", "save_counter", "counts"),
        (f"global_step{VALUE}", "global_step", "counts"),
        (f"keras_api/metrics/0/total{VALUE}", "total", "average"),
        (f"loss_tracker/count{VALUE}", "count", "average"),
    ],
)
def test_what_is_no_weight_is_left_out_with_a_reason(key, name, reason):
    names = {KERNEL: "stem_conv/kernel", key: name}
    found = names_from_graph(graph(names), names)
    assert list(found.keys) == ["stem_conv/kernel"]
    assert reason in found.ignored[key]


def test_tensor_that_the_graph_does_not_know_is_kept_for_the_rules_to_refuse():
    found = names_from_graph(graph({KERNEL: "stem_conv/kernel"}), [KERNEL, f"stray{VALUE}"])
    assert found.keys["stray"] == f"stray{VALUE}"


def test_variables_of_one_name_are_an_error_that_lists_them():
    names = {f"a{VALUE}": "dense/kernel", f"b{VALUE}": "dense/kernel"}
    with pytest.raises(SourceError, match=r"several variables of one name: dense/kernel \(a/.*, b/"):
        names_from_graph(graph(names), names)


def test_older_checkpoint_is_named_by_its_keys():
    weights = ["dense/kernel", "tf_bert_model/bert/pooler/dense/kernel", "temperature"]
    state = ["dense/kernel/LAMB", "dense/kernel/LAMB_1", "training/LAMB/temperature/m", "global_step"]
    found = names_from_keys([*weights, *state])
    assert found.keys == {name: name for name in weights}
    assert set(found.ignored) == set(state)


def test_without_tensorflow_the_extra_is_named(tmp_path, monkeypatch):
    index = tmp_path / "model-weights.index"
    index.write_bytes(b"index")
    (tmp_path / "model-weights.data-00000-of-00001").write_bytes(b"data")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(SourceError, match=r"TensorFlow, which is not installed; run pip install 'align_jax\[tensorfl"):
        TensorflowCheckpoint(index)


def test_missing_parts_of_the_data_are_listed(tmp_path):
    index = tmp_path / "model-weights.index"
    index.write_bytes(b"index")
    with pytest.raises(SourceError, match=r"lacks its data: model-weights\.data-00000-of-00001;"):
        TensorflowCheckpoint(index)
    (tmp_path / "model-weights.data-00001-of-00003").write_bytes(b"data")
    (tmp_path / "other.data-00000-of-00003").write_bytes(b"data")
    with pytest.raises(SourceError, match=r"weights\.data-00000-of-00003, model-weights\.data-00002-of-00003;"):
        TensorflowCheckpoint(index)


@pytest.fixture
def saved(tmp_path):
    """A checkpoint with three variables, one of them bfloat16, and a counter; the index and the values."""
    tensorflow = pytest.importorskip("tensorflow", reason="writes a checkpoint with TensorFlow, which is not installed")
    rng = np.random.default_rng(0)
    arrays = {
        "stem_conv/kernel": rng.normal(size=(3, 3, 3, 8)).astype(np.float32),
        "temperature": np.float32(0.0625),
        "stem_bn/gamma": rng.normal(size=(1, 1, 1, 1, 8)).astype(ml_dtypes.bfloat16),
    }
    model = tensorflow.Module()
    model.parts = [tensorflow.Variable(array, name=name) for name, array in arrays.items()]
    path = tensorflow.train.Checkpoint(model=model).save(str(tmp_path / "ckpt"))
    return tmp_path / f"{path}.index", arrays


def test_tensors_are_those_that_were_saved(saved):
    index, arrays = saved
    found = TensorflowCheckpoint(index)
    assert set(found) == set(arrays)
    assert len(found) == 3
    assert "save_counter" not in found
    for name, array in arrays.items():
        assert found.info(name) == TensorInfo(array.shape, array.dtype)
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert found.paths["temperature"] == "model/parts/1"
    assert set(found.ignored.values()) == {"counts steps or checkpoints", "text about an object, not numbers"}


def test_flipped_bit_of_the_data_is_an_error(saved):
    index, arrays = saved
    data = index.with_name(index.stem + ".data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    found = TensorflowCheckpoint(index)
    with pytest.raises(SourceError, match=r"ckpt-1\.index is damaged at .*; fetch it again") as raised:
        [found[name] for name in arrays]
    assert "\n" not in str(raised.value)


def read_all(index):
    """All tensors, or the error."""
    try:
        found = TensorflowCheckpoint(index)
        return {name: found[name] for name in found}
    except SourceError as error:
        return error


def test_damaged_index_is_an_error_or_changes_nothing(saved):
    index, arrays = saved
    content = index.read_bytes()
    refused = 0
    for position in range(0, len(content), max(1, len(content) // 60)):
        flipped = bytes([content[position] ^ 255])
        for damaged in (content[:position], content[:position] + flipped + content[position + 1 :]):
            index.write_bytes(damaged)
            found = read_all(index)
            if isinstance(found, SourceError):
                refused += 1
                assert "\n" not in str(found)
            else:
                assert {name: array.tobytes() for name, array in found.items()} == {
                    name: array.tobytes() for name, array in arrays.items()
                }
    assert refused > 60
