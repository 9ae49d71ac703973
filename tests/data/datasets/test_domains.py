"""From raw folders, as distributed, to batches."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from jaxcog.data import builders, pipeline, samples
from jaxcog.data.datasets import domains
from jaxcog.errors import ConfigError, DataError
from tests.data.datasets import raw as make


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    base = tmp_path_factory.mktemp("pacs")
    raw = make.pacs(base / "raw", domains.PACS.domains)
    (raw / "images" / "photo/dog/train1.png").write_bytes(b"\x89PNG truncated")
    return base / "out", builders.prepare("pacs", raw, base / "out")


def test_counts_and_bad_files_are_reported(pacs):
    out, report = pacs
    assert report.counts["photo_train"] == 20
    assert report.counts["sketch_train"] == 21
    assert report.counts["cartoon_crossval"] == 7
    assert list(report.bad) == ["photo/dog/train1.png"]
    assert list(report.skipped) == ["sketch/dog/n02103406_4068-1.png"]
    assert "photo/dog/train1.png: not a readable image" in report.text()
    assert json.loads(json.dumps(report.to_json()))["counts"]["photo_train"] == 20
    assert not (out / "downloads").exists()


def test_pacs_leaves_the_target_out(pacs):
    config = domains.PACS(target="cartoon", size=16, root=str(pacs[0]), validation=True)
    splits = config.load()
    assert splits.info.class_names == make.CLASSES
    assert splits.info.num_examples == 20 + 21 + 21
    assert splits.info.facts["domains"] == ("art_painting", "photo", "sketch", "cartoon")
    batches = pipeline.train_batches(splits, batch_size=8, seed=0, start_step=0, stop_step=7)
    seen = set()
    for batch in batches:
        assert batch.arrays["image"].shape == (8, 16, 16, 3)
        assert batch.arrays["image"].dtype == np.float32
        for file, label, domain in zip(
            batch.ids, batch.arrays["label"], batch.arrays["domain"], strict=True
        ):
            folder, name, part = file.split("/")
            assert make.CLASSES[label] == name
            assert splits.info.facts["domains"][domain] == folder
            assert part.startswith("train")
            seen.add(file)
    assert len(seen) == 56
    (test,) = pipeline.eval_batches(splits.evaluation["test"], batch_size=28)
    assert test.arrays["mask"].all()
    assert set(test.arrays["domain"]) == {3}
    assert {file.split("/")[0] for file in test.ids} == {"cartoon"}
    assert len(splits.evaluation["source"].source) == 21
    record = samples.sample_arrays(splits.evaluation["test"], 2)
    element = config.describe().element
    assert {n: (v.shape[1:], v.dtype) for n, v in record.items()} == {
        n: (s.shape, s.dtype) for n, s in element.items()
    }


def test_blocks_of_domains_for_cross_domain_mixing(pacs):
    config = domains.PACS(target="photo", size=16, root=str(pacs[0]), sampler="domains")
    batches = pipeline.train_batches(config.load(), batch_size=8, seed=0, start_step=0, stop_step=5)
    for batch in batches:
        first, second = batch.arrays["domain"][:4], batch.arrays["domain"][4:]
        assert len(set(first)) == len(set(second)) == 1
        assert first[0] != second[0]


def test_processes_read_prepared_records_alike(pacs):
    splits = domains.PACS(target="photo", size=16, root=str(pacs[0])).load()
    options = {"batch_size": 8, "seed": 0, "start_step": 1, "stop_step": 4}
    for a, b in zip(
        pipeline.train_batches(splits, **options),
        pipeline.train_batches(splits, **options, workers=2),
        strict=True,
    ):
        np.testing.assert_array_equal(a.arrays["image"], b.arrays["image"])
        assert a.ids == b.ids


@pytest.mark.parametrize(
    ("config", "folder", "parts", "test_size"),
    [
        (domains.OfficeHome, str, ("train", "val"), 12),
        (domains.DigitsDG, str, ("train", "val"), 12),
        (domains.VLCS, str.upper, ("train", "crossval", "test"), 6),
    ],
)
def test_folder_layouts(tmp_path, config, folder, parts, test_size):
    names = tuple(folder(name) for name in config.domains)
    make.folders(tmp_path / "raw", names, parts, classes=3)
    report = builders.prepare(config.name, tmp_path / "raw", tmp_path)
    assert set(report.counts.values()) == {6}
    splits = config(size=16, root=str(tmp_path)).load()
    assert splits.info.class_names == ("class00", "class01", "class02")
    assert splits.info.num_examples == 18
    assert len(splits.evaluation["test"].source) == test_size
    batch = next(pipeline.train_batches(splits, batch_size=18, seed=0, start_step=0, stop_step=1))
    np.testing.assert_array_equal(np.bincount(batch.arrays["label"]), [6, 6, 6])


def test_mini_domain_net(tmp_path):
    make.mini_domain_net(tmp_path / "raw", domains.MiniDomainNet.domains, classes=4)
    builders.prepare("mini_domain_net", tmp_path / "raw", tmp_path)
    splits = domains.MiniDomainNet(size=16, root=str(tmp_path)).load()
    assert splits.info.class_names == ("thing0", "thing1", "thing2", "thing3")
    (test,) = pipeline.eval_batches(splits.evaluation["test"], batch_size=4)
    assert test.ids == [f"sketch/thing{i}/sketch_test_{i}.jpg" for i in range(4)]


def test_damaged_raw_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r'no dataset "pac".*did you mean "pacs"'):
        builders.prepare("pac", tmp_path, tmp_path)
    with pytest.raises(DataError, match=r"(?s)nowhere is no folder.*splits/<domain>"):
        builders.prepare("pacs", tmp_path / "nowhere", tmp_path)
    names = domains.OfficeHome.domains
    raw = make.folders(tmp_path / "raw", names, ("train", "val"), classes=2)
    for file in (raw / "clipart/val/class01").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r'(?s)"class01" is empty.*clipart.*Expected'):
        builders.prepare("office_home_dg", raw, tmp_path)
    (raw / "clipart/val/class01").rmdir()
    with pytest.raises(DataError, match=r"differ in the classes \['class01'\]"):
        builders.prepare("office_home_dg", raw, tmp_path)
    (raw / "product").rename(raw / "products")
    (raw / "clipart/val/class01").mkdir()
    make.picture(raw / "clipart/val/class01/0.jpg", 0)
    with pytest.raises(DataError, match=r"product/train is missing"):
        builders.prepare("office_home_dg", raw, tmp_path)
    assert not list(tmp_path.glob("office_home_dg/*/*"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("photo/dog/x.png 8", "line 22: 'photo/dog/x.png 8'"),
        ("photo/dog/x.png", "line 22"),
        ("poster/dog/x.png 1", 'unknown domain "poster"'),
    ],
)
def test_damaged_lists_are_named(tmp_path, line, problem):
    raw = make.pacs(tmp_path / "raw", domains.PACS.domains)
    with (raw / "splits/photo_train_kfold.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=problem):
        builders.prepare("pacs", raw, tmp_path)


def test_missing_and_damaged_preparations(tmp_path, pacs):
    config = domains.PACS(root=str(tmp_path))
    with pytest.raises(DataError, match=r"no prepared pacs.*jaxcog prepare pacs --raw"):
        config.load()
    with pytest.raises(DataError, match="exists already"):
        builders.prepare("pacs", tmp_path, pacs[0])


def test_a_truncated_record_file_is_an_error(tmp_path):
    make.mini_domain_net(tmp_path / "raw", domains.MiniDomainNet.domains, classes=4)
    builders.prepare("mini_domain_net", tmp_path / "raw", tmp_path)
    for file in tmp_path.glob("mini_domain_net/*/*clipart_train.array_record*"):
        file.write_bytes(file.read_bytes()[:-100])
    config = domains.MiniDomainNet(size=16, root=str(tmp_path))
    with pytest.raises(DataError, match="prepare"):
        list(pipeline.train_batches(config.load(), batch_size=4, seed=0, start_step=0, stop_step=3))


def test_wrong_domains_are_config_errors():
    with pytest.raises(ConfigError, match=r'unknown domain "sketches"; pacs has art_painting'):
        domains.PACS(sources=("sketches",))
    with pytest.raises(ConfigError, match=r"also among data\.sources"):
        domains.PACS(target="photo", sources=("photo",))


def test_tensorflow_stays_out(pacs):
    domains.PACS(root=str(pacs[0])).load()
    assert "tensorflow" not in sys.modules
    assert "torch" not in sys.modules
