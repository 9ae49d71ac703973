from __future__ import annotations

import json

import numpy as np
import pytest

from jaxcog.data import builders, pipeline
from jaxcog.data.datasets import domains, few_labels
from jaxcog.errors import ConfigError, DataError
from tests.data.datasets import raw as make


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    base = tmp_path_factory.mktemp("pacs")
    raw = make.pacs(base / "raw", few_labels.PACS.domains)
    builders.prepare("pacs", raw, base / "out")
    return str(base / "out")


def batches(splits, count=3, batch_size=6):
    options = {"batch_size": batch_size, "seed": 0, "start_step": 0, "stop_step": count}
    return list(pipeline.train_batches(splits, **options))


def test_few_labels_of_pacs(pacs):
    config = few_labels.PACSFewLabels(target="cartoon", size=32, root=pacs, per_class=1)
    splits = config.load()
    labelled, unlabelled = (splits.train[name].source for name in ("labelled", "unlabelled"))
    assert (len(labelled), len(unlabelled)) == (21, 42)
    cells = labelled.columns["domain"] * 7 + labelled.columns["label"]
    np.testing.assert_array_equal(np.sort(cells), np.arange(21))
    names = [{source.name_of(i) for i in range(len(source))} for source in (labelled, unlabelled)]
    assert not names[0] & names[1]
    assert splits.epoch_stream == "unlabelled"
    for batch in batches(splits):
        for name in ("labelled", "unlabelled"):
            arrays = batch.arrays[name]
            np.testing.assert_array_equal(arrays["domain"], [0, 0, 1, 1, 2, 2])
            assert arrays["weak"].shape == arrays["strong"].shape == (6, 32, 32, 3)
            assert arrays["weak"].dtype == np.float32
            assert not np.array_equal(arrays["weak"], arrays["strong"])
    assert len(splits.evaluation["test"].source) == 28
    assert {n: set(v) for n, v in splits.info.element.items()} == {
        n: set(v) for n, v in config.describe().element.items()
    }
    assert set(splits.info.eval_element) == {"image", "label", "domain"}


def test_all_images_may_be_unlabelled_too(pacs):
    config = few_labels.PACSFewLabels(root=pacs, size=32, per_class=1, all_unlabelled=True)
    assert len(config.load().train["unlabelled"].source) == 63


def test_validation_on_the_sources(pacs):
    config = few_labels.PACSAdaptation(root=pacs, size=32, validation=True, per_class=1)
    splits = config.load()
    assert len(splits.evaluation["source"].source) == 21
    assert len(splits.train["labelled"].source) == 21


def test_training_on_the_labelled_images_alone(pacs):
    few = few_labels.PACSFewLabels(target="cartoon", root=pacs, per_class=2).load()
    alone = domains.PACS(target="cartoon", root=pacs, per_class=2).load()
    sources = few.train["labelled"].source, alone.train.source
    assert alone.info.num_examples == 42
    assert [sources[0].name_of(i) for i in range(42)] == [sources[1].name_of(i) for i in range(42)]


def test_the_split_depends_on_its_seed_alone():
    columns = np.arange(60) % 3, np.arange(60) // 30
    first, rest = domains.few_of_each_class(*columns, 4, 1)
    np.testing.assert_array_equal(first, domains.few_of_each_class(*columns, 4, 1)[0])
    assert not np.array_equal(first, domains.few_of_each_class(*columns, 4, 2)[0])
    np.testing.assert_array_equal(np.sort(np.concatenate([first, rest])), np.arange(60))
    with pytest.raises(
        DataError, match=r"class 0 has 10 images in domain 0.*data.per_class=11: lower it"
    ):
        domains.few_of_each_class(*columns, 11, 1)


def test_official_split_files(pacs, tmp_path):
    path = tmp_path / "cartoon_nlab3_seed1.json"
    lists = {
        "train_x": [["photo/dog/train0.png", 0, "photo"]],
        "train_u": [["pacs/images/sketch/horse/train2.png", 4, "sketch"]],
    }
    path.write_text(json.dumps(lists))
    options = {"target": "cartoon", "size": 32, "root": pacs, "split_file": str(path)}
    config = few_labels.PACSFewLabels(**options, sampler="uniform")
    streams = config.load().train
    assert streams["labelled"].source.name_of(0) == "photo/dog/train0.png"
    assert streams["unlabelled"].source.name_of(0) == "sketch/horse/train2.png"

    path.write_text(json.dumps({**lists, "train_x": [["cartoon/dog/train0.png", 0, "cartoon"]]}))
    with pytest.raises(DataError, match=r"cartoon/dog/train0.png.*another target"):
        config.load()
    path.write_text("{}")
    with pytest.raises(DataError, match="no split file"):
        config.load()


def test_numbered_class_folders_are_found(tmp_path):
    path = tmp_path / "split.json"
    entry = ["art/train/000_Alarm_Clock/1.jpg", 0, "art"]
    path.write_text(json.dumps({"train_x": [entry], "train_u": []}))
    labelled, _ = few_labels.read_split(
        path, ["art/train/Bed/1.jpg", "art/train/Alarm_Clock/1.jpg"]
    )
    assert labelled.tolist() == [1]


def test_adaptation_to_a_domain_of_pacs(pacs):
    config = few_labels.PACSAdaptation(target="photo", size=32, root=pacs)
    splits = config.load()
    assert [len(splits.train[n].source) for n in ("labelled", "unlabelled")] == [63, 21]
    assert len(splits.evaluation["test"].source) == 7
    (batch,) = batches(splits, count=1, batch_size=9)
    assert set(batch.arrays["unlabelled"]["domain"]) == {3}
    assert config.describe().num_examples == 1499


def test_visda17(tmp_path):
    make.visda17(tmp_path / "raw", classes=3)
    builders.prepare("visda17", tmp_path / "raw", tmp_path)
    splits = few_labels.VisDA17(size=32, root=str(tmp_path)).load()
    assert splits.info.class_names == ("thing0", "thing1", "thing2")
    sources = [splits.train[name].source for name in ("labelled", "unlabelled")]
    sources.append(splits.evaluation["test"].source)
    assert [source.name_of(0).split("/")[0] for source in sources] == [
        "train",
        "validation",
        "validation",
    ]
    assert splits.epoch_stream == "labelled"


def test_a_class_missing_in_a_domain_is_named(tmp_path):
    raw = make.visda17(tmp_path / "raw", classes=3)
    path = raw / "validation" / "image_list.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(DataError, match=r'(?s)validation.*no image of class 2 \("thing2"\).*add'):
        builders.prepare("visda17", raw, tmp_path)


def test_a_class_whose_images_are_all_unreadable_is_named(tmp_path):
    raw = make.visda17(tmp_path / "raw", classes=3)
    for file in (raw / "train" / "thing1").iterdir():
        file.write_bytes(b"not an image")
    assert len(builders.prepare("visda17", raw, tmp_path).bad) == 2
    with pytest.raises(DataError, match=r'"synthetic" has no image of the class "thing1".*again'):
        few_labels.VisDA17(size=32, root=str(tmp_path)).load()


def test_wrong_settings_are_config_errors():
    with pytest.raises(ConfigError, match='unknown domain "painting"; pacs has'):
        few_labels.PACSFewLabels(target="painting")
    with pytest.raises(ConfigError, match=r"data\.per_class"):
        few_labels.OfficeHomeFewLabels(per_class=0)
