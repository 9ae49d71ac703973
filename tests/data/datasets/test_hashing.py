"""Retrieval sets: from lists and CIFAR batches, as distributed, to batches."""

from __future__ import annotations

import numpy as np
import pytest

from jaxcog.data import builders, images, pipeline, samples
from jaxcog.data.datasets import hashing
from jaxcog.errors import DataError
from tests.data.datasets import raw as make


def first_batch(splits, size):
    options = {"seed": 0, "start_step": 0, "stop_step": 1}
    return next(pipeline.train_batches(splits, batch_size=size, **options))


@pytest.mark.parametrize("prefix", ["", "data/imagenet_resize/"])
def test_lists_with_one_class_an_image(tmp_path, prefix):
    raw = make.hash_lists(tmp_path / "data/imagenet_resize", 4, multi=False, prefix=prefix)
    report = builders.prepare("imagenet100", raw, tmp_path)
    assert report.counts == {"train": 8, "query": 4, "database": 20}
    splits = hashing.ImageNet100(size=16, root=str(tmp_path)).load()
    assert splits.info.num_classes == 4
    batch = first_batch(splits, 8)
    np.testing.assert_array_equal(np.bincount(batch.arrays["label"]), [2, 2, 2, 2])
    assert batch.arrays["label"].dtype == np.int32
    database = splits.evaluation["database"].source
    lines = [line.split()[0] for line in (raw / "database.txt").read_text().splitlines()]
    assert [database.name_of(i) for i in range(20)] == lines


@pytest.mark.parametrize("config", [hashing.NUSWide, hashing.COCO])
def test_lists_with_several_labels_an_image(tmp_path, config):
    raw = make.hash_lists(tmp_path / "raw", 5, multi=True)
    builders.prepare(config.name, raw, tmp_path)
    splits = config(size=16, root=str(tmp_path)).load()
    query = samples.sample_arrays(splits.evaluation["query"], 5)
    assert query["image"].shape == (5, 16, 16, 3)
    expected = [line.split()[1:] for line in (raw / "test.txt").read_text().splitlines()]
    np.testing.assert_array_equal(query["label"], np.array(expected, np.float32))
    assert query["label"].dtype == np.float32
    assert splits.info.element["label"].shape == (5,)
    assert first_batch(splits, 4).arrays["image"].shape == (4, 16, 16, 3)


def test_recipes_of_the_paper_and_of_the_code():
    assert hashing.NUSWide().test_transform().views[0][1][:2] == (
        images.ResizeShorter(256),
        images.CentreCrop(224),
    )
    assert hashing.COCO().train_transform().views[0][1][0] == images.RandomResizedCrop(224)
    steps = hashing.COCO(augmentation="code").train_transform().views[0][1]
    assert steps[:2] == (images.ResizeShorter(224), images.RandomCrop(224))
    assert hashing.NUSWide().describe().element["label"].shape == (21,)


@pytest.mark.parametrize("binary", [False, True])
def test_cifar10(tmp_path, binary):
    pixels = make.cifar10(tmp_path / "raw", binary=binary, per_class=20)
    report = builders.prepare("cifar10", tmp_path / "raw", tmp_path)
    assert report.counts == {"train": 1000, "test": 200}
    config = hashing.CIFAR10(size=32, root=str(tmp_path))
    splits = config.load()
    sizes = [len(stream.source) for stream in splits.evaluation.values()]
    assert sizes == [1000, 200]
    assert len(splits.train.source) == 200
    query = splits.evaluation["query"].source
    row = int(query.part[3]) * 1000 + int(query.row[3])
    shown = images.decode(query[3]["image"])
    np.testing.assert_array_equal(shown, pixels[row].transpose(1, 2, 0))


def test_cifar10_protocols():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 6000))
    train, query, database = hashing.cifar10_split(labels, protocol=1, seed=0)
    assert [len(rows) for rows in (train, query, database)] == [5000, 1000, 59_000]
    assert set(train) <= set(database)
    assert not set(query) & set(database)
    np.testing.assert_array_equal(np.bincount(labels[query]), np.full(10, 100))
    train, query, database = hashing.cifar10_split(labels, protocol=2, seed=0)
    assert [len(rows) for rows in (train, query, database)] == [50_000, 10_000, 50_000]
    with pytest.raises(DataError, match="class 0 has 6 images"):
        hashing.cifar10_split(np.repeat(np.arange(10), 6), protocol=1, seed=0)


def test_damaged_cifar10_is_named(tmp_path):
    raw = tmp_path / "raw"
    make.cifar10(raw, binary=False, per_class=2)
    whole = (raw / "data_batch_3").read_bytes()
    (raw / "data_batch_3").write_bytes(whole[:500])
    with pytest.raises(DataError, match="data_batch_3 is damaged"):
        builders.prepare("cifar10", raw, tmp_path)
    (raw / "data_batch_3").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=r"(?s)data_batch_3 is damaged.*system"):
        builders.prepare("cifar10", raw, tmp_path)
    (raw / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        builders.prepare("cifar10", raw, tmp_path)
    with pytest.raises(DataError, match="no test_batch"):
        builders.prepare("cifar10", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text + "images/x.jpg 1 0\n", "line 9: 'images/x.jpg 1 0' is not"),
        (lambda text: text + "images/x.jpg 1 a 0 0\n", "line 9"),
        (lambda text: text.replace(" 0 0 0 1", " 0 0 1 1"), "has 2 labels"),
        (lambda text: text.replace(" 0 0 0 1", " 1 0 0 0"), "class 3 has no image"),
        (lambda text: text.replace("images/", "pictures/"), "first listed image"),
        (lambda text: "", "train.txt is empty"),
    ],
)
def test_damaged_lists_are_named(tmp_path, change, problem):
    raw = make.hash_lists(tmp_path / "raw", 4, multi=False)
    path = raw / "train.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=problem):
        builders.prepare("imagenet100", raw, tmp_path)


def test_labels_out_of_range_are_named(tmp_path):
    raw = make.hash_lists(tmp_path / "raw", 3, multi=False)
    for file in raw.glob("*.txt"):
        rows = [line.split() for line in file.read_text().splitlines()]
        file.write_text("".join(f"{row[0]} {row[1:].index('1')}\n" for row in rows))
    with (raw / "test.txt").open("a") as file:
        file.write("images/test0_0.jpg 3\n")
    with pytest.raises(DataError, match=r"test.txt: images/test0_0.jpg has the label 3.*0 to 2"):
        builders.prepare("imagenet100", raw, tmp_path)


def test_missing_images_are_counted_and_all_missing_is_an_error(tmp_path):
    raw = make.hash_lists(tmp_path / "raw", 4, multi=False)
    (raw / "images/test0_0.jpg").unlink()
    report = builders.prepare("imagenet100", raw, tmp_path)
    assert report.counts["query"] == 3
    assert list(report.bad) == ["images/test0_0.jpg"]
    for file in raw.glob("images/test*"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"no readable record in query.*test\d_0"):
        builders.prepare("imagenet100", raw, tmp_path / "other")
    assert not list((tmp_path / "other").glob("imagenet100/*"))
