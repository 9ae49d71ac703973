"""Word vectors from a CLIP text tower, against the tower written out for one without layers."""

from __future__ import annotations

import numpy as np
import pytest

from jaxcog.errors import CheckpointError
from jaxcog.systems.textreid import clip_word_table

WIDTH, OUT, START, END = 64, 8, 18, 19
TOKENS = np.array([[START, 3, END, 0], [START, 5, 7, END], [START, 2, END, 0]])


def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {
        "token_embedding.weight": (20, WIDTH),
        "positional_embedding": (4, WIDTH),
        "text_projection": (WIDTH, OUT),
        "ln_final.weight": (WIDTH,),
        "ln_final.bias": (WIDTH,),
    }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_feature_is_read_at_the_end_marker():
    given = tensors()
    place = TOKENS.argmax(axis=1)
    x = given["token_embedding.weight"][END] + given["positional_embedding"][place]
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    want = (x * given["ln_final.weight"] + given["ln_final.bias"]) @ given["text_projection"]
    table = clip_word_table(given, TOKENS, batch=2)
    assert table.shape == (4, OUT)
    assert not table[0].any()
    np.testing.assert_allclose(table[1:], want, atol=1e-4)


def test_a_mean_of_tokens_leaves_out_the_markers():
    embedding = tensors()["token_embedding.weight"]
    want = np.stack(
        [np.zeros(WIDTH), embedding[3], (embedding[5] + embedding[7]) / 2, embedding[2]]
    )
    table = clip_word_table(tensors(), TOKENS, kind="token_mean")
    np.testing.assert_allclose(table, want, atol=1e-6)


def test_a_checkpoint_without_a_text_tower_is_refused():
    with pytest.raises(CheckpointError):
        clip_word_table({"visual.conv1.weight": np.zeros((2, 3, 3, 3))}, TOKENS)
