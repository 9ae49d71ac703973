from __future__ import annotations

import numpy as np
import pytest

from jaxcog.data import builders, pipeline
from jaxcog.data.datasets import reid
from jaxcog.errors import ConfigError, DataError
from tests.data.datasets import raw as make


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    base = tmp_path_factory.mktemp("reid")
    make.reid(base / "market" / "Market-1501-v15.09.15", persons=4, cameras=3)
    make.reid(base / "duke", persons=3, cameras=2)
    report = builders.prepare("market1501", base / "market", base / "out")
    assert report.counts == {"train": 24, "query": 12, "gallery": 25}
    builders.prepare("dukemtmc_reid", base / "duke", base / "out")
    return str(base / "out")


def config(root, **changes):
    return reid.CrossReID(height=32, width=16, root=root, **changes)


def batches(splits, batch_size=8, count=2):
    options = {"batch_size": batch_size, "seed": 0, "start_step": 0, "stop_step": count}
    return list(pipeline.train_batches(splits, **options))


def test_training_on_one_and_testing_on_the_other(root):
    data = config(root)
    splits = data.load()
    assert splits.info.num_classes == 4
    assert splits.info.element == data.describe().element
    (first, _) = batches(splits)
    assert first.arrays["image"].shape == (8, 32, 16, 3)
    for file, person, camera in zip(
        first.ids, first.arrays["person"], first.arrays["camera"], strict=True
    ):
        folder, name = file.split("/")
        assert folder == "bounding_box_train"
        assert (int(name[:4]) - 2, int(name[6]) - 1) == (person, camera)
    query, gallery = (splits.evaluation[n].source for n in ("query", "gallery"))
    assert (len(query), len(gallery)) == (6, 13)
    assert set(query.columns["person"]) == {100, 101, 102}
    assert set(gallery.columns["person"]) == {0, 100, 101, 102}
    assert gallery.columns["person"][-1] == 0
    back = config(root, train="dukemtmc_reid", test="market1501").load()
    assert len(back.evaluation["gallery"].source) == 25


def test_samplers_of_cameras_and_of_persons(root):
    for batch in batches(config(root, sampler="cameras").load()):
        first, second = batch.arrays["camera"][:4], batch.arrays["camera"][4:]
        assert len(set(first)) == len(set(second)) == 1
        assert first[0] != second[0]
    for batch in batches(config(root, sampler="persons").load()):
        blocks = batch.arrays["person"].reshape(2, 4)
        assert (blocks == blocks[:, :1]).all()
        assert blocks[0, 0] != blocks[1, 0]


def test_fewer_persons_than_a_batch_needs(root):
    splits = config(root, train="dukemtmc_reid", sampler="persons").load()
    with pytest.raises(DataError, match=r"4 identities x 4 examples.*has 3 identities; lower"):
        batches(splits, batch_size=16)


def test_damaged_folders_are_named(tmp_path):
    raw = make.reid(tmp_path / "raw", persons=2, cameras=2)
    with pytest.raises(DataError, match=r"(?s)nowhere is no folder.*bounding_box_train"):
        builders.prepare("market1501", tmp_path / "nowhere", tmp_path)
    make.picture(raw / "query" / "someone.jpg", 0)
    with pytest.raises(DataError, match=r"someone\.jpg is not called <person>_c<camera>"):
        builders.prepare("market1501", raw, tmp_path)
    (raw / "query" / "someone.jpg").rename(raw / "query" / "0100_c9s1_9.jpg")
    with pytest.raises(DataError, match="camera 9, the dataset has 6"):
        builders.prepare("market1501", raw, tmp_path)
    (raw / "query" / "0100_c9s1_9.jpg").write_bytes(b"")
    (raw / "query" / "0100_c9s1_9.jpg").rename(raw / "query" / "0100_c1s1_9.jpg")
    report = builders.prepare("market1501", raw, tmp_path)
    assert list(report.bad) == ["query/0100_c1s1_9.jpg"]


def test_wrong_settings_are_config_errors():
    with pytest.raises(ConfigError, match=r'data\.train="msmt17": one of market1501'):
        reid.CrossReID(train="msmt17")
    with pytest.raises(ConfigError, match=r"data\.per_person=0"):
        reid.CrossReID(per_person=0)


def test_published_sizes():
    info = reid.CrossReID(train="dukemtmc_reid").describe()
    assert (info.num_examples, info.num_classes) == (16522, 702)
    assert info.element["image"].shape == (256, 128, 3)
    np.testing.assert_allclose(info.facts["mean"][0], 0.485)
