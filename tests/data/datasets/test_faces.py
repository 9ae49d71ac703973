"""FFHQ-Aging and folders of faces: from the layout as distributed to pairs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcog.data import builders, pipeline, samples
from jaxcog.data.datasets import faces
from jaxcog.data.face_alignment import align_face
from jaxcog.errors import ConfigError, DataError

GOOD = {
    "age_group": "0-2",
    "age_group_confidence": "0.9",
    "gender": "male",
    "gender_confidence": "0.9",
    "head_pitch": "0",
    "head_roll": "0",
    "head_yaw": "0",
    "left_eye_occluded": "0",
    "right_eye_occluded": "0",
    "glasses": "None",
}


def face(path: Path, value: int, parsing: bool = True) -> None:
    """A bright square on a background; the parsing says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((40, 40, 3), 7, np.uint8)
    pixels[10:30, 10:30] = value
    Image.fromarray(pixels).save(path)
    if parsing:
        labels = np.zeros((40, 40), np.uint8)
        labels[10:30, 10:30] = 1
        (path.parent / "parsings").mkdir(exist_ok=True)
        Image.fromarray(labels).save(path.parent / "parsings" / f"{path.stem}.png")


def ffhq(raw: Path) -> Path:
    rows = []
    for number in range(8):
        group = "0-2" if number % 2 else "3-6"
        rows.append({**GOOD, "image_number": str(number), "age_group": group})
    for number in (69000, 69001):
        rows.append({**GOOD, "image_number": str(number), "age_group": ("0-2", "3-6")[number % 2]})
    rows.append({**GOOD, "image_number": "8", "glasses": "Dark"})
    rows.append({**GOOD, "image_number": "9"})  # has no parsing
    for row in rows:
        number = int(row["image_number"])
        folder = raw / "ffhq_aging256x256" / f"{number // 1000 * 1000:05d}"
        face(folder / f"{number:05d}.png", 100 + number % 100, parsing=number != 9)
    with (raw / "ffhq_aging_labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image_number", *GOOD])
        writer.writeheader()
        writer.writerows(rows)
    return raw


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, builders.PrepareReport]:
    base = tmp_path_factory.mktemp("ffhq")
    (base / "raw").mkdir()
    return base / "out", builders.prepare("ffhq_aging", ffhq(base / "raw"), base / "out")


def test_rows_are_pruned_and_counted(prepared):
    _, report = prepared
    assert report.counts == {"males_train": 8, "males_test": 2}
    assert report.skipped == ("males/train0-2/00009.png (no parsing)",)


def test_pairs_are_of_two_classes_and_masked(prepared):
    data = faces.FFHQAging(classes=("3-6", "0-2"), size=32, root=str(prepared[0]))
    splits = data.load()
    assert splits.info.num_examples == 4
    options = {"batch_size": 2, "seed": 0, "start_step": 0, "stop_step": 12}
    first = set()
    for batch in pipeline.train_batches(splits, **options):
        assert batch.arrays["image"].shape == (2, 2, 32, 32, 3)
        labels = batch.arrays["label"]
        assert sorted(labels[0]) == [0, 1]
        grey = (128 / 255 - 0.5) / 0.5
        np.testing.assert_allclose(batch.arrays["image"][:, :, 0, 0], grey, atol=1e-6)
        assert np.all(batch.arrays["image"][:, :, 16, 16] < 0)
        first.add(int(labels[0, 0]))
    assert first == {0, 1}
    test = samples.sample_arrays(splits.evaluation["test"], 5)
    assert test["image"].shape == (2, 32, 32, 3)
    assert sorted(test["label"]) == [0, 1]


def test_resumed_pairs_are_the_same(prepared):
    data = faces.FFHQAging(classes=("3-6", "0-2"), size=32, root=str(prepared[0]))

    def batches(start: int) -> list[np.ndarray]:
        options = {"batch_size": 2, "seed": 3, "start_step": start, "stop_step": 5}
        return [b.arrays["image"] for b in pipeline.train_batches(data.load(), **options)]

    for whole, resumed in zip(batches(0)[2:], batches(2), strict=True):
        np.testing.assert_array_equal(whole, resumed)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"classes": ("0-2", "50-69")}, DataError, "no image of the classes 50-69"),
        ({"classes": ("0-2", "3-6"), "gender": "females"}, DataError, "no split females_train"),
        ({"classes": ("0-2", "old")}, ConfigError, "at least two of"),
        ({"size": 30}, ConfigError, "divisible by 4"),
    ],
)
def test_what_is_not_there_is_named(prepared, options, error, why):
    with pytest.raises(error, match=why):
        faces.FFHQAging(**{"root": str(prepared[0]), **options}).load()


def test_folders_of_any_classes(tmp_path: Path):
    raw = tmp_path / "raw"
    for phase, number in (("train", 3), ("test", 1)):
        for name in ("kids10", "old70"):
            for index in range(number):
                face(raw / f"{phase}{name}" / f"{index}.jpeg", 50 + index)
    report = builders.prepare("faces", raw, tmp_path / "out")
    assert report.counts == {"train": 6, "test": 2}
    data = faces.FaceFolders(classes=("kids10", "old70"), size=32, root=str(tmp_path / "out"))
    assert data.load().info.class_names == ("kids10", "old70")

    (raw / "trainold70" / "parsings" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.jpeg has no face parsing"):
        builders.prepare("faces", raw, tmp_path / "again")
    face(raw / "trainold70" / "1.jpeg", 50)
    (raw / "trainteen19").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        builders.prepare("faces", raw, tmp_path / "third")


def test_a_photo_without_a_face():
    with pytest.raises(DataError, match="was a face found"):
        align_face(np.zeros((64, 64, 3), np.uint8), np.zeros((0, 2)))
    with pytest.raises(DataError, match="parse the aligned image"):
        faces.mask_background(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8))
    with pytest.raises(DataError, match="names no age"):
        faces.age_index("old")
