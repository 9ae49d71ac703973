"""Episodes over masks: which images take part, what is drawn, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcog.data.mask_episodes import (
    EpisodeIndex,
    EpisodeTransform,
    EvalEpisodes,
    TrainEpisodes,
    index_episodes,
    sample_episode,
)
from jaxcog.data.types import BadRecord
from jaxcog.errors import DataError
from jaxcog.nn.canvas import resize_pad_square

IDS = (3, 5)


def pixels(rows: int = 12) -> np.ndarray:
    """Row i has class 3 where i is even, 5 where i divides by 3, too little of 3 in row 1."""
    counts = np.zeros((rows, 256), np.int32)
    counts[::2, 3] = 3000
    counts[::3, 5] = 2048
    counts[1, 3] = 2047
    return counts


def test_index():
    index = EpisodeIndex.of(pixels(), IDS)
    np.testing.assert_array_equal(index.queries, [0, 2, 3, 4, 6, 8, 9, 10])
    np.testing.assert_array_equal(index.supports[0], [0, 2, 4, 6, 8, 10])
    np.testing.assert_array_equal(index.supports[1], [0, 3, 6, 9])
    assert index.present[:3].tolist() == [[True, True], [True, False], [False, True]]


def test_supports_are_other_images_of_a_class_that_the_query_has():
    index = EpisodeIndex.of(pixels(), IDS)
    random = np.random.default_rng(0)
    for _ in range(100):
        episode = sample_episode(random, index, 3)
        query, supports, target = episode.query, episode.supports, episode.target
        assert query not in supports
        assert len(set(supports.tolist())) == 3
        assert set(supports) <= set(index.supports[target])
        assert pixels()[query, IDS[target]] > 0
    assert {sample_episode(random, index, 1, 0).target for _ in range(20)} == {0, 1}


def test_too_few_supports_are_named():
    index = EpisodeIndex.of(pixels(), IDS, ("cat", "dog"))
    index.check(3, "fold 0")
    with pytest.raises(DataError, match=r"fold 0: 4-shot .* too few of dog \(4\): lower data.shot"):
        index.check(4, "fold 0")
    with pytest.raises(DataError, match="dog has 3 images besides the query, 4 are"):
        sample_episode(np.random.default_rng(0), index, 4, 2)


def pair(folder: Path, name: str, value: int, size: tuple[int, int] = (64, 80)) -> str:
    random = np.random.default_rng(sum(name.encode()))
    Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)).save(folder / f"{name}.png")
    mask = np.zeros(size, np.uint8)
    mask[:40], mask[60:] = value, 255
    Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return f"{name}.png {name}_mask.png\n"


def records(folder: Path, pairs: list[tuple[Path, Path]]) -> list[dict[str, bytes]]:
    return [{"image": image.read_bytes(), "label": mask.read_bytes()} for image, mask in pairs]


def test_episodes_of_a_list(tmp_path: Path):
    lines = [pair(tmp_path, f"i{i}", 3 if i % 2 else 5) for i in range(6)]
    (tmp_path / "list.txt").write_text("".join(lines))
    index, pairs = index_episodes(tmp_path / "list.txt", tmp_path, IDS)
    names = [image.name for image, _ in pairs]
    stored = records(tmp_path, pairs)
    shown = EvalEpisodes(index, names, episodes=4, runs=2)
    assert len(shown) == 8
    assert shown[7] == {"place": 1, "episode": 7, "run": 1}
    assert shown.name_of(7) == "episode 7, query i1.png"
    made = EpisodeTransform(stored, index, 2, 57)
    first, again = (made(shown[7], np.random.default_rng(seed)) for seed in (0, 1))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert first["support"].shape == (2, 57, 57, 3)
    assert first["class"] == 0
    assert set(np.unique(first["query_mask"])) == {0, 1, 255}
    other = EpisodeTransform(stored, index, 2, 57, seed=1)
    assert any(
        not np.array_equal(made(shown[i], None)["support"], other(shown[i], None)["support"])
        for i in range(8)
    )
    small = EpisodeTransform(stored, index, 1, 57, original=64)
    with pytest.raises(BadRecord, match=r"64 x 80 pixels; .* have at most 64 a side"):
        small(shown[0], None)
    train = TrainEpisodes(index, names)
    assert "original_mask" not in small(train[0], np.random.default_rng(0))
    flipped = EpisodeTransform(stored, index, 1, 57, flip=True)
    masks = {flipped(train[0], np.random.default_rng(s))["query_mask"].tobytes() for s in range(8)}
    assert len(masks) >= 2


def test_lists_that_cannot_be_used(tmp_path: Path):
    path = tmp_path / "list.txt"
    path.write_text("a.png\n")
    with pytest.raises(DataError, match=r"line 1: 'a.png' is not an image and a mask"):
        index_episodes(path, tmp_path, IDS)
    path.write_text(pair(tmp_path, "a", 3))
    with pytest.raises(DataError, match="no mask has 2048 pixels of any of the classes"):
        index_episodes(path, tmp_path, (7,))
    path.write_text("a.png b_mask.png\n")
    with pytest.raises(DataError, match=r"b_mask.png cannot be read"):
        index_episodes(path, tmp_path, IDS)
    with pytest.raises(DataError, match="cannot be read"):
        index_episodes(tmp_path / "none.txt", tmp_path, IDS)


def test_square():
    image = np.arange(30 * 90 * 3, dtype=np.float32).reshape(30, 90, 3) % 255
    canvas, mask = resize_pad_square(image, np.ones((30, 90), np.uint8), 57)
    assert canvas.shape == (57, 57, 3)
    np.testing.assert_array_equal(mask[:16, :56], 1)
    assert (mask[16:] == 255).all()
    assert (mask[:, 56:] == 255).all()
    assert (canvas[16:] == 0).all()
    with pytest.raises(DataError, match="must have one size"):
        resize_pad_square(image, np.ones((30, 80), np.uint8), 57)
    with pytest.raises(DataError, match="thinner than 8 pixels"):
        resize_pad_square(np.zeros((10, 400, 3)), None, 57)
