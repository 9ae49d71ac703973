"""ShoeV2, ChairV2, Sketchy and TU-Berlin from small trees in their layouts."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxcog.data import pipeline
from jaxcog.data.builders import prepare
from jaxcog.data.datasets.sketch_categories import Categories
from jaxcog.data.datasets.sketches import FineGrained
from jaxcog.errors import ConfigError, DataError
from tests.data.datasets.raw import picture

SIZE = 16


def strokes(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    points = random.uniform(40, 200, (6, 2))
    return np.column_stack([points, [0, 0, 1, 0, 0, 1]])


def chairs(raw: Path, *, suffixes: dict[str, tuple[str, ...]] | None = None) -> dict:
    """ChairV2/ChairV2_Coordinate and photo/: six training and three test photos."""
    suffixes = suffixes or {}
    drawn = {}
    for split, count in (("train", 6), ("test", 3)):
        for i in range(count):
            photo = f"chair_{split}_{i}"
            picture(raw / "ChairV2" / "photo" / f"{photo}.png", i, 30, 30)
            for suffix in suffixes.get(photo, ("1", "2", "3")):
                drawn[f"/{split}/{photo}_{suffix}"] = strokes(len(drawn))
    write(raw, drawn)
    return drawn


def write(raw: Path, drawn: dict) -> None:
    (raw / "ChairV2" / "ChairV2_Coordinate").write_bytes(pickle.dumps(drawn))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All prepared once; chair 0 has five sketches, test chair 0 lacks the third."""
    base = tmp_path_factory.mktemp("prepared")
    raw = base / "raw"
    odd = {"chair_train_0": ("1", "2", "3", "40", "worker"), "chair_test_0": ("1", "2", "7")}
    chairs(raw, suffixes=odd)
    report = prepare("chairv2", raw, base / "out")
    assert dict(report.counts) == {
        "train_photo": 6, "train_sketch": 20, "test_photo": 3, "test_sketch": 9
    }  # fmt: skip
    sketchy(base / "sketchy")
    report = prepare("sketchy", base / "sketchy", base / "out")
    assert dict(report.counts) == {"photo": 4, "sketch": 24, "extended": 2}
    tuberlin(base / "tuberlin")
    prepare("tuberlin", base / "tuberlin", base / "out")
    return str(base / "out")


def sketchy(raw: Path) -> None:
    for label, name in enumerate(("ape", "bee")):
        for i in range(2):
            place = raw / "sketchy_rendered_256x256"
            stem = f"n0{label}_{i}"
            picture(place / "photo" / "tx_000000000000" / name / f"{stem}.jpg", 10 * label + i)
            for k in range(6):
                file = place / "sketch" / "tx_000000000000" / name / f"{stem}-{k}.png"
                picture(file, 100 * label + 10 * i + k)
        picture(raw / "EXTEND_image_sketchy_ver1" / name / "x.jpg", 50 + label)


def tuberlin(raw: Path) -> None:
    for label, name in enumerate(("cup", "key")):
        for i in range(5):
            file = raw / "sketches" / name / f"{i}.svg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f'<svg><path d="M 0 0 L {i + 1} {label + 2}"/></svg>')
        for i in range(3):
            picture(raw / "photos" / name / f"{i}.jpg", 10 * label + i)


def first_batch(data, size: int):
    splits = data.load()
    batches = pipeline.train_batches(
        splits, batch_size=size, seed=0, start_step=0, stop_step=1, prefetch=0
    )
    return splits, next(batches).arrays


def test_tasks_of_a_photo_another_one_and_its_sketches(root):
    data = FineGrained("chairv2", size=SIZE, validation=0.34, root=root)
    splits, batch = first_batch(data, 2)
    assert splits.info.num_examples == 4
    assert batch["positive"].shape == batch["negative"].shape == (2, 1, SIZE, SIZE, 3)
    assert batch["sketches"].shape == (2, 1, 3, SIZE, SIZE, 3)
    assert batch["sketches"].min() >= -1
    sizes = {name: len(stream.source) for name, stream in splits.evaluation.items()}
    assert sizes["query"] == 9
    assert sizes["gallery"] == 3
    assert sizes["validation_gallery"] == 2
    source = splits.train.source
    for index in range(40):
        positive, negative, drawn = source.draw(index)
        assert positive != negative
        owner = source.photos.columns["photo"][positive]
        assert (source.sketches.columns["photo"][drawn] == owner).all()
    assert {source.draw(i)[0] for i in range(4)} == set(range(4)), "one visit of each photo"
    assert "against" in source.name_of(0)


def test_the_released_selection_leaves_sketches_and_photos_out(root):
    data = FineGrained("chairv2", size=SIZE, selection="released", negatives="all",
                       validation=0.0, root=root)  # fmt: skip
    splits = data.load()
    assert len(splits.evaluation["query"].source) == 6, "two photos with sketches 1, 2 and 3"
    assert len(splits.evaluation["gallery"].source) == 2
    assert "validation_query" not in splits.evaluation
    source = splits.train.source
    assert len(source.photos) == 8, "negatives may be test photos"
    assert all(source.sketches.columns["style"][source.draw(i)[2]].tolist() == [1, 2, 3]
               for i in range(6))  # fmt: skip


def test_fewer_sketches_than_a_task_needs(tmp_path):
    chairs(tmp_path / "raw", suffixes={"chair_train_2": ("1", "2")})
    prepare("chairv2", tmp_path / "raw", tmp_path / "out")
    data = FineGrained("chairv2", size=SIZE, validation=0.0, root=str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"fewer sketches than the 3 .* chair_train_2.png \(2\)"):
        data.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("/train/chair_train_1_1") is None or [d.pop(f"/train/chair_train_1_{i}")
         for i in (2, 3)], "1 photos without sketches in .*: chair_train_1"),
        (lambda d: d.update({"/train/ghost_1": strokes(0)}), "not in .*photo: ghost; add them"),
        (lambda d: d.update({"/test/chair_train_1_9": strokes(0)}), "in train and in test"),
        (lambda d: d.update({"oops": strokes(0)}), '"oops" is not called'),
        (lambda d: d.update({"/train/chair_train_1_1": np.zeros((0, 3))}), "is empty"),
        (lambda d: d.update({"/train/chair_train_1_1": np.ones((1, 3))}), "one point only"),
    ],
)  # fmt: skip
def test_raw_folders_that_cannot_be_used(change, message, tmp_path):
    drawn = chairs(tmp_path)
    change(drawn)
    write(tmp_path, drawn)
    with pytest.raises(DataError, match=message):
        prepare("chairv2", tmp_path, tmp_path / "out")


def test_categories(root):
    splits, batch = first_batch(Categories("sketchy", size=SIZE, queries=2, root=root), 2)
    assert batch["sketches"].shape == (2, 1, 3, SIZE, SIZE, 3)
    assert len(splits.evaluation["query"].source) == 4
    assert len(splits.evaluation["gallery"].source) == 6
    assert splits.info.class_names == ("ape", "bee")
    source = splits.train.source
    for index in range(20):
        positive, negative, drawn = source.draw(index)
        labels = source.photos.columns["label"]
        assert labels[positive] != labels[negative]
        own = source.sketches.columns["photo"][drawn]
        assert (own == source.photos.columns["photo"][positive]).all()
    data = Categories("tuberlin", size=SIZE, queries=2, root=root)
    splits, batch = first_batch(data, 2)
    assert splits.info.num_examples == 2
    assert batch["positive"].shape == (2, 1, SIZE, SIZE, 3)
    with pytest.raises(DataError, match=r"class cup has 5 sketches, and 4 queries"):
        Categories("tuberlin", size=SIZE, queries=4, root=root).load()
    with pytest.raises(DataError, match=r"class ape has 12 sketches, and 50 queries"):
        Categories("sketchy", size=SIZE, root=root).load()


def test_category_folders_that_cannot_be_used(tmp_path):
    sketchy(tmp_path / "a")
    place = tmp_path / "a" / "sketchy_rendered_256x256"
    for k in range(6):
        (place / "sketch" / "tx_000000000000" / "ape" / f"n00_0-{k}.png").unlink()
    with pytest.raises(DataError, match="1 photos without sketches: ape/n00_0"):
        prepare("sketchy", tmp_path / "a", tmp_path / "out")
    tuberlin(tmp_path / "b")
    picture(tmp_path / "b" / "photos" / "pen" / "0.jpg", 1)
    with pytest.raises(DataError, match="one of them lacks pen"):
        prepare("tuberlin", tmp_path / "b", tmp_path / "out")
    tuberlin(tmp_path / "c")
    (tmp_path / "c" / "sketches" / "cup" / "0.svg").write_text("<svg></svg>")
    with pytest.raises(DataError, match=r"0\.svg: the sketch is empty"):
        prepare("tuberlin", tmp_path / "c", tmp_path / "out")


def test_options_that_do_not_fit():
    for make, message in (
        (lambda: FineGrained(sketches=4), "data.sketches=4 1 to 3"),
        (lambda: FineGrained(validation=1.0), "data.validation=1.0"),
        (lambda: Categories(queries=0), "data.queries=0"),
        (lambda: Categories(size=0), "data.size=0"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()
    assert FineGrained("chairv2").describe().num_examples == 270
    assert Categories("tuberlin").describe().num_classes == 250
