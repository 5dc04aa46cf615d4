"""The text tower's configuration: optional numbers, position embeddings, and folders of BERT alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from align_jax.configuration import AlignConfig, AlignTextConfig, BertConfig, ConfigurationError

# Fields of published configurations of BERT, old and new, that change nothing in the tower.
PUBLISHED_FIELDS = {
    "_name_or_path": "bert-base-uncased", "architectures": ["BertForMaskedLM"], "classifier_dropout": None,
    "directionality": "bidi", "finetuning_task": None, "gradient_checkpointing": False, "output_past": True,
    "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform", "torch_dtype": "float32", "transformers_version": "4.6.0.dev0",
    "use_cache": True,
}  # fmt: skip


def test_padding_may_be_absent(tmp_path: Path) -> None:
    config = AlignTextConfig.from_dict({"pad_token_id": None})
    assert config.pad_token_id is None
    config.to_json(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] is None
    assert AlignTextConfig.from_json(tmp_path) == config
    assert transformers.AlignTextConfig.from_pretrained(tmp_path).pad_token_id is None


@pytest.mark.parametrize("value", ["0", 0.5, True, [0]])
def test_padding_of_another_type_is_named(value: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"AlignTextConfig\.pad_token_id is .*, which is not of type int \| None"
    ):
        AlignTextConfig.from_dict({"pad_token_id": value})


def test_only_optional_numbers_may_be_null() -> None:
    with pytest.raises(ConfigurationError, match=r"vocab_size is None, which is not of type int$"):
        AlignTextConfig.from_dict({"vocab_size": None})


def test_padding_must_be_a_token() -> None:
    AlignTextConfig.tiny(pad_token_id=98)
    with pytest.raises(
        ConfigurationError, match="pad_token_id 99 is not among the 99 tokens; use null if there is none"
    ):
        AlignTextConfig.tiny(pad_token_id=99)


@pytest.mark.parametrize("kind", ["absolute", "relative_key", "relative_key_query"])
def test_position_embeddings_are_read_and_written(kind: str) -> None:
    values = AlignConfig.tiny().to_dict()
    values["text_config"]["position_embedding_type"] = kind
    config = AlignConfig.from_dict(values)
    assert config.text_config.position_embedding_type == kind
    assert config.to_dict() == values


def test_other_position_embeddings_are_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'rotary' is not supported; use one of \('absolute', 'relative_key', "
    ):
        AlignTextConfig.from_dict({"position_embedding_type": "rotary"})


def test_bert_reads_what_transformers_writes(tmp_path: Path) -> None:
    theirs = transformers.BertConfig(hidden_size=48, num_attention_heads=3, hidden_act="relu", pad_token_id=None)
    theirs.save_pretrained(tmp_path)
    assert BertConfig.from_json(tmp_path) == BertConfig(
        hidden_size=48, num_attention_heads=3, hidden_act="relu", pad_token_id=None
    )


def test_bert_writes_what_transformers_reads(tmp_path: Path) -> None:
    config = BertConfig.mini(pad_token_id=3)
    config.to_json(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.BertConfig)
    assert {name: theirs.to_dict()[name] for name in written} == written


def test_fields_of_published_bert_folders_are_ignored() -> None:
    assert BertConfig.from_dict(BertConfig.base().to_dict() | PUBLISHED_FIELDS) == BertConfig.base()


def test_unknown_fields_of_bert_are_named() -> None:
    with pytest.raises(ConfigurationError, match="BertConfig has no field 'embedding_size', 'rotary'; remove"):
        BertConfig.from_dict({"embedding_size": 128, "rotary": True})


@pytest.mark.parametrize(("config", "other"), [(BertConfig, "align_text_model"), (AlignTextConfig, "bert")])
def test_model_type_of_another_tower_is_refused(config: type[AlignTextConfig], other: str) -> None:
    with pytest.raises(ConfigurationError, match=f"model_type is '{other}', but {config.__name__} reads"):
        config.from_dict({"model_type": other})


def test_decoders_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"BertConfig supports only is_decoder False \(it is True\)"):
        BertConfig.from_dict({"is_decoder": True})
