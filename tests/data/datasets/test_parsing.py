"""Scene-parsing datasets: from the layouts as distributed to batches."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from jaxcog.data import builders, pipeline
from jaxcog.data.datasets import parsing
from jaxcog.data.datasets import segmentation_classes as names
from jaxcog.errors import ConfigError, DataError
from tests.data.datasets.raw import picture

HEIGHT, WIDTH = 20, 24  # of raw.picture


def label(path, low, high, seed=0):
    """Label values low .. high, each of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(low, high + 1, (HEIGHT, WIDTH))
    values.ravel()[: high - low + 1] = np.arange(low, high + 1)
    Image.fromarray(values.astype(np.uint8)).save(path)


def cityscapes(raw):
    for split, kind in (("train", "gtFine"), ("val", "gtFine"), ("train_extra", "gtCoarse")):
        for i in range(2):
            stem = f"bonn_{i:06d}_000019"
            picture(raw / "leftImg8bit" / split / "bonn" / f"{stem}_leftImg8bit.png", i)
            label(raw / kind / split / "bonn" / f"{stem}_{kind}_labelIds.png", 0, 33)
    return raw


def camvid(raw):
    for split in ("train", "val", "test"):
        picture(raw / split / "0001TP.png", 0)
        label(raw / f"{split}annot" / "0001TP.png", 0, 11)
    return raw


def ade20k(raw):
    for split in ("training", "validation"):
        picture(raw / "images" / split / "ADE_1.jpg", 0)
        label(raw / "annotations" / split / "ADE_1.png", 0, 150)
    return raw


def pascal_context(raw):
    for split in ("train", "val"):
        picture(raw / "JPEGImages" / f"2008_{split}.jpg", 0)
        label(raw / "SegmentationClassContext" / f"2008_{split}.png", 0, 59)
        lists = raw / "ImageSets" / "SegmentationContext"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text(f"2008_{split}\n")
    return raw


def coco_stuff(raw):
    """One label as the .mat file that is distributed, one as PNG."""
    for split in ("train", "test"):
        picture(raw / "images" / f"COCO_{split}.jpg", 0)
        (raw / "imageLists").mkdir(parents=True, exist_ok=True)
        (raw / "imageLists" / f"{split}.txt").write_text(f"COCO_{split}\n")
    label(raw / "annotations" / "COCO_test.png", 0, 182)
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 183
    savemat(raw / "annotations" / "COCO_train.mat", {"S": values.astype(np.uint16)})
    return raw


SETS = {
    "cityscapes": (cityscapes, parsing.Cityscapes, 19),
    "camvid": (camvid, parsing.CamVid, 11),
    "ade20k": (ade20k, parsing.ADE20K, 150),
    "pascal_context": (pascal_context, parsing.PascalContext, 60),
    "coco_stuff": (coco_stuff, parsing.COCOStuff, 171),
}


@pytest.mark.parametrize("name", SETS)
def test_from_the_layout_as_distributed_to_batches(name, tmp_path):
    make, config, classes = SETS[name]
    builders.prepare(name, make(tmp_path / "raw"), tmp_path / "out")
    data = config(crop=(16, 18), canvas=(HEIGHT, WIDTH), scales=(1.0,), root=str(tmp_path / "out"))
    splits = data.load()
    described = data.describe()
    assert splits.info.element == described.element
    assert splits.info.class_names == described.class_names
    assert len(described.class_names) == len(described.facts["colours"]) == classes
    (batch,) = pipeline.train_batches(splits, batch_size=1, seed=0, start_step=0, stop_step=1)
    assert batch.arrays["image"].shape == (1, 16, 18, 3)
    (split,) = splits.evaluation
    (test,) = pipeline.eval_batches(splits.evaluation[split], batch_size=2)
    # The label maps hold every value, so every class is there, and what is ignored.
    assert set(np.unique(test.arrays["label"])) - {255} == set(range(classes))


def test_splits_to_train_on(tmp_path):
    builders.prepare("cityscapes", cityscapes(tmp_path / "raw"), tmp_path / "out")
    sizes = {"train": 2, "trainval": 4, "train+": 4, "train++": 6}
    for split, count in sizes.items():
        data = parsing.Cityscapes(train_on=split, root=str(tmp_path / "out"))
        assert data.load().info.num_examples == count
    assert parsing.Cityscapes(train_on="train+").describe().num_examples == 22_973


def test_pascal_context_without_its_background():
    data = parsing.PascalContext(background=False)
    assert data.describe().num_classes == 59
    assert data.table[0] == 255
    assert data.table[1] == 0


def test_cityscapes_train_ids():
    ids = np.array([[-1, 0, 7, 8], [33, 29, 19, 255]])
    assert parsing.cityscapes_train_ids(ids).tolist() == [[255, 255, 0, 1], [18, 255, 6, 255]]
    with pytest.raises(DataError, match=r"\[40\]"):
        parsing.cityscapes_train_ids(np.array([[40]]))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda annot: label(annot, 0, 12), r"label values \[12\].*colours or instances"),
        (lambda annot: Image.new("L", (9, 9)).save(annot), "20 x 24 and its label 9 x 9"),
        (lambda annot: annot.write_bytes(b"broken"), "0001TP.png cannot be read.*fetch"),
        (lambda annot: annot.unlink(), "1 files are missing"),
    ],
)
def test_a_bad_pair_is_named_before_anything_is_kept(tmp_path, harm, message):
    raw = camvid(tmp_path / "raw")
    harm(raw / "valannot" / "0001TP.png")
    with pytest.raises(DataError, match=f"(?s){message}"):
        builders.prepare("camvid", raw, tmp_path / "out")


def test_an_empty_folder_gets_the_expected_layout(tmp_path):
    with pytest.raises(DataError, match=r"(?s)no image of the split train.*leftImg8bit"):
        builders.prepare("cityscapes", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("changes", [{"crop": (0, 4)}, {"canvas": (3,)}, {"scales": ()}])
def test_bad_settings_are_named(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        parsing.ADE20K(**changes)


def test_every_class_has_its_colour():
    for classes, colours in (
        (names.CITYSCAPES, names.CITYSCAPES_COLOURS),
        (names.CAMVID, names.CAMVID_COLOURS),
        (names.ADE20K, names.ADE20K_COLOURS),
    ):
        assert len(classes) == len(colours)
        assert len(set(classes)) == len(classes)
    assert names.voc_colours(3) == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
