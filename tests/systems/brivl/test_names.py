"""Official names: what is read, what is ignored, what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxcog.errors import CheckpointError
from jaxcog.interop.importer import import_checkpoint
from jaxcog.nn.bert import BertConfig, init_bert
from jaxcog.systems.brivl import torch_names, vqgan

BERT = BertConfig(vocab=11, width=8, layers=2, heads=2, hidden=12, positions=6)
STRUCT = {
    "params": {"text": {"backbone": jax.eval_shape(lambda: init_bert(jax.random.key(0), BERT))}}
}
WIDE, TABLES = BERT.width, {"word": 11, "position": 6, "token_type": 2}


def bert_file(prefix: str = "bert.", norm: tuple[str, str] = ("weight", "bias")) -> dict:
    shapes = {f"embeddings.{name}_embeddings.weight": (n, WIDE) for name, n in TABLES.items()}
    shapes |= {f"embeddings.LayerNorm.{name}": (WIDE,) for name in norm}
    for i in range(BERT.layers):
        layer = f"encoder.layer.{i}."
        sizes = {
            **{f"attention.self.{part}": (WIDE, WIDE) for part in ("query", "key", "value")},
            "attention.output.dense": (WIDE, WIDE),
            "intermediate.dense": (BERT.hidden, WIDE),
            "output.dense": (WIDE, BERT.hidden),
        }
        for name, shape in sizes.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}{name}.{part}": (WIDE,) for part in norm}
    random = np.random.default_rng(0)
    file = {prefix + k: random.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    file[f"{prefix}pooler.dense.weight"] = np.zeros((WIDE, WIDE), np.float32)
    file[f"{prefix}embeddings.position_ids"] = np.arange(6)[None]
    return file


@pytest.mark.parametrize("prefix", ["bert.", ""])
@pytest.mark.parametrize("norm", [("weight", "bias"), ("gamma", "beta")])
def test_bert_by_itself_under_new_and_old_names(prefix: str, norm: tuple[str, str]):
    file = bert_file(prefix, norm)
    tree, report = import_checkpoint(file, torch_names.HUGGING_FACE, STRUCT)
    assert len(report.ignored) == 2
    backbone = tree["params"]["text"]["backbone"]
    want = file[f"{prefix}encoder.layer.1.output.dense.weight"].T
    np.testing.assert_array_equal(backbone["layer_1"]["linear2"]["kernel"], want)
    scale = backbone["layer_0"]["norm1"]["scale"]
    want = file[f"{prefix}encoder.layer.0.attention.output.LayerNorm.{norm[0]}"]
    np.testing.assert_array_equal(scale, want)


def test_a_vocabulary_of_another_size_is_named():
    file = bert_file()
    file["bert.embeddings.word_embeddings.weight"] = np.zeros((21, WIDE), np.float32)
    with pytest.raises(CheckpointError, match=r"\[21, 8\] in the checkpoint, \[11, 8\]"):
        import_checkpoint(file, torch_names.HUGGING_FACE, STRUCT)


def test_the_towers_of_a_whole_checkpoint():
    text = {f"textencoder.backbone.{name}": value for name, value in bert_file().items()}
    slow = {name.replace("textencoder.", "textencoder_mom."): x for name, x in text.items()}
    tree, report = torch_names.BRIVL.convert({**text, **slow})
    assert not report.unused
    assert set(slow) <= set(report.ignored)
    assert set(tree["params"]["text"]["backbone"]) == {"embeddings", "layer_0", "layer_1"}


def test_fused_projections_are_cut_in_three():
    weight = np.arange(12, dtype=np.float32).reshape(6, 2)
    key = "imgencoder.learnable.imgAtt.layers.3.self_attn.in_proj_weight"
    layer = torch_names.BRIVL.to_ours({key: weight})["params"]["image"]["fusion"]["layer_3"]
    np.testing.assert_array_equal(layer["key"]["kernel"], weight[2:4].T)
    back = torch_names.BRIVL.to_torch(
        {"params": {"image": {"fusion": {"layer_3": layer}}}}, keys=[key]
    )
    np.testing.assert_array_equal(back[key], weight)


def test_every_part_of_a_vqgan_has_an_official_name():
    config = vqgan.VQGANConfig(
        channels=4,
        multipliers=(1, 2),
        blocks=1,
        attention_at=(4,),
        resolution=8,
        z_channels=4,
        codes=5,
        code_width=3,
        groups=2,
    )
    params = jax.eval_shape(lambda: vqgan.init_vqgan(jax.random.key(0), config))
    arrays = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), params)
    named = torch_names.VQGAN.to_torch({"params": arrays})
    assert named["quantize.embedding.weight"].shape == (5, 3)
    assert "decoder.up.1.upsample.conv.weight" in named
    assert "encoder.down.1.attn.0.proj_out.bias" in named
    again = torch_names.VQGAN.to_ours({**named, "loss.logvar": np.zeros(1)})["params"]
    assert jax.tree.structure(again) == jax.tree.structure(arrays)
