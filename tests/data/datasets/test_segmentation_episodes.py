"""PASCAL-5i and COCO-20i from small trees in their layouts: prepared, indexed, drawn."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcog.data import pipeline
from jaxcog.data.builders import prepare
from jaxcog.data.datasets.segmentation_episodes import BaseClasses, Episodes
from jaxcog.data.datasets.segmentation_folds import (
    COCO,
    PASCAL,
    coco20i_folds,
    coco_to_pascal_classes,
    pascal5i_folds,
)
from jaxcog.data.datasets.segmentation_lists import painted
from jaxcog.errors import ConfigError, DataError

BAND = 26  # rows of 96 pixels: 2496 of each class


def pascal(raw: Path, copies: int = 2) -> Path:
    """Images with the five classes of one fold in bands; `copies` of each a split."""
    for folder in ("JPEGImages", "SegmentationClassAug", "lists/pascal"):
        (raw / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        lines = []
        for i in range(4 * copies):
            ids = pascal5i_folds(i % 4)[1]
            mask = np.repeat(np.array([0, *ids, 255], np.uint8), BAND)[:, None].repeat(96, 1)
            files = f"JPEGImages/{split}{i}.jpg", f"SegmentationClassAug/{split}{i}.png"
            Image.fromarray(random.integers(0, 255, (*mask.shape, 3), np.uint8)).save(
                raw / files[0]
            )
            Image.fromarray(mask).save(raw / files[1])
            lines.append(" ".join(files) + "\n")
        (raw / "lists" / "pascal" / f"{split}.txt").write_text("".join(lines))
    return raw


def rectangle(row: int, column: int, side: int = 50) -> list[float]:
    top, left = 60 * row + 0.7, 60 * column + 0.7
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def coco(raw: Path) -> Path:
    """Images with the twenty classes of one fold as rectangles; masks are in the annotations."""
    (raw / "annotations").mkdir(parents=True)
    ids = [i + i // 12 for i in range(1, 81)]  # with gaps, as COCO's
    for split in ("train", "val"):
        (raw / f"{split}2014").mkdir()
        images, annotations = [], []
        for i in range(9):
            name = f"COCO_{split}2014_{i:012d}.jpg"
            Image.new("RGB", (300, 240), (i, 50, 90)).save(raw / f"{split}2014" / name)
            images.append({"id": i, "height": 240, "width": 300, "file_name": name})
            for k, value in enumerate(coco20i_folds(i % 4)[1] if i < 8 else ()):
                annotations.append(
                    {
                        "image_id": i,
                        "category_id": ids[value - 1],
                        "iscrowd": 0,
                        "segmentation": [rectangle(k // 5, k % 5), rectangle(k // 5, k % 5, 55)],
                    }
                )
        crowd = {"image_id": 8, "category_id": 1, "iscrowd": 1, "segmentation": {"counts": [1]}}
        body = {"images": images, "annotations": [*annotations, crowd]}
        body["categories"] = [{"id": i} for i in ids]
        (raw / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(body))
    return raw


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fewshot")
    assert prepare("pascal5i", pascal(path / "voc"), path).counts == {"train": 8, "val": 8}
    assert prepare("coco20i", coco(path / "coco"), path).counts == {"train": 8, "val": 8}
    return path


def test_folds():
    for fold in range(4):
        base, novel = pascal5i_folds(fold)
        assert len(base) == 15
        assert novel == tuple(range(5 * fold + 1, 5 * fold + 6))
        for interleaved in (True, False):
            base, novel = coco20i_folds(fold, interleaved)
            assert sorted((*base, *novel)) == list(range(1, 81))
            assert len(novel) == 20
    assert coco20i_folds(1)[1][:3] == (2, 6, 10)
    assert coco_to_pascal_classes(2) == (3, 7, 16, 17, 19, 20)
    assert coco_to_pascal_classes(3, released_names=True) == (5, 7, 10, 14)
    assert (PASCAL[6], COCO[0], COCO[79]) == ("car", "person", "toothbrush")


def test_a_fold_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"data.fold=4: the folds are 0, 1, 2, 3"):
        Episodes(fold=4)
    with pytest.raises(ConfigError, match=r"data.size=472: 8 k \+ 1"):
        BaseClasses(size=472)
    with pytest.raises(ConfigError, match=r"data\.shot=0"):
        Episodes(shot=0)
    with pytest.raises(ConfigError, match="test_on"):
        Episodes("pascal5i", test_on="pascal")


def test_base_classes(root: Path):
    data = BaseClasses(fold=1, size=57, root=str(root))
    splits = data.load()
    assert splits.info.class_names == ("background", *PASCAL[:5], *PASCAL[10:])
    assert len(splits.train.source) == 6  # the images of fold 1 show no base class
    batch = next(pipeline.eval_batches(splits.evaluation["base"], batch_size=6)).arrays
    assert batch["image"].shape == (6, 57, 57, 3)
    assert set(np.unique(batch["label"][0])) == {0, 1, 2, 3, 4, 5, 255}
    assert set(np.unique(batch["label"][1])) == {0, *range(6, 11), 255}
    element = data.describe().element
    assert {k: (v.shape, v.dtype) for k, v in element.items()} == {
        k: (v.shape[1:], v.dtype) for k, v in batch.items() if k in element
    }


def test_episodes(root: Path):
    data = Episodes(fold=2, size=57, episodes=3, runs=2, base_episodes=4, root=str(root))
    splits = data.load()
    novel = splits.evaluation["novel"]
    batch = next(pipeline.eval_batches(novel, batch_size=6)).arrays
    assert batch["run"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["episode"].tolist() == list(range(6))
    assert (batch["class"] < 5).all()
    assert not np.array_equal(batch["support"][0, 0], batch["query"][0])
    assert splits.info.class_names == (*PASCAL[:10], *PASCAL[15:])
    assert splits.info.facts["classes"]["novel"] == PASCAL[10:15]
    shapes = {k: v.shape for k, v in data.describe().eval_element.items()}
    assert shapes == {k: v.shape[1:] for k, v in batch.items() if k != "mask"}
    judged = dataclasses.replace(data, original=True)
    annotated = next(pipeline.eval_batches(judged.load().evaluation["novel"], batch_size=6)).arrays
    np.testing.assert_array_equal(annotated["query"], batch["query"])
    assert annotated["original_mask"].shape == (6, 500, 500)
    assert (annotated["original_size"] == [7 * BAND, 96]).all()
    assert (annotated["content"] == [56, 24]).all()
    assert np.sum(annotated["original_mask"] == 1, axis=(1, 2)).tolist() == [BAND * 96] * 6
    shapes = {k: v.shape for k, v in judged.describe().eval_element.items()}
    assert shapes == {k: v.shape[1:] for k, v in annotated.items() if k != "mask"}
    train = pipeline.train_batches(splits, batch_size=2, seed=0, start_step=0, stop_step=3)
    seen = [x.arrays for x in train]
    assert all((x["class"] < 15).all() for x in seen)
    assert seen[0]["support"].shape == (2, 1, 57, 57, 3)
    short = Episodes(fold=2, size=57, epoch_episodes=4, root=str(root)).load()
    assert pipeline.steps_per_epoch(short, 2, 0) == 2


def test_too_few_images_of_a_class(root: Path):
    with pytest.raises(DataError, match=r"2-shot episodes need 3 images .* aeroplane \(2\)"):
        Episodes(fold=1, size=57, shot=2, root=str(root)).load()


def test_coco_and_coco_to_pascal(root: Path):
    splits = Episodes("coco20i", fold=3, size=57, episodes=4, root=str(root)).load()
    assert splits.info.facts["classes"]["novel"][:2] == ("motorcycle", "truck")
    assert len(splits.train.source) == 6
    crossed = Episodes(
        "coco20i", fold=3, size=57, episodes=4, test_on="pascal", root=str(root)
    ).load()
    assert crossed.info.facts["classes"]["novel"] == ("bottle", "cat", "cow", "motorbike")
    assert crossed.info.class_names == splits.info.class_names
    next(pipeline.eval_batches(crossed.evaluation["novel"], batch_size=4))


def test_masks_of_instances():
    def mask(*instances: tuple, whole: bool) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(painted(instances, 40, 40, whole))))

    small, large = [2.9, 2.9, 9.9, 2.9, 9.9, 9.9, 2.9, 9.9], [20, 20, 30, 20, 30, 30, 20, 30]
    first = mask((7, [small, large]), whole=False)
    assert (first == 7).sum() == 64  # 2..9 both ways
    assert (mask((7, [small, large]), whole=True) == 7).sum() == 64 + 121
    assert mask((7, [small]), (9, [small]), whole=False)[5, 5] == 9


def test_raw_folders_that_are_wrong(tmp_path: Path):
    raw = pascal(tmp_path / "voc", copies=1)
    mask = raw / "SegmentationClassAug" / "train0.png"
    size = Image.open(mask).size

    def complaint(**changed: int) -> str:
        Image.new("L", changed.get("size", size), changed["value"]).save(mask)
        with pytest.raises(DataError) as found:
            prepare("pascal5i", raw, tmp_path / "out")
        return str(found.value)

    assert "the mask is empty" in complaint(value=0)
    assert "mask values [21] are no class ids" in complaint(value=21)
    mask.unlink()
    with pytest.raises(DataError, match="1 files are missing, such as"):
        prepare("pascal5i", raw, tmp_path / "out")
    (raw / "lists" / "pascal" / "val.txt").unlink()
    with pytest.raises(DataError, match="is missing"):
        prepare("pascal5i", raw, tmp_path / "out")
    with pytest.raises(DataError, match="instances_train2014"):
        prepare("coco20i_full", raw, tmp_path / "out")
