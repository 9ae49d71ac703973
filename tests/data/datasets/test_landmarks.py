"""Descriptors of landmarks: from saved files to batches and ground truth."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from jaxcog.data import builders, pipeline
from jaxcog.data.datasets.landmarks import Landmarks
from jaxcog.errors import DataError
from tests.data.datasets import raw as make


@pytest.fixture
def gldv2(tmp_path):
    raw = tmp_path / "gldv2"
    make.descriptors(raw / "train.txt", 6, first_label=1, seed=0)
    make.descriptors(raw / "test.txt", 2, first_label=1, seed=1)
    make.descriptors(raw / "database.txt", 5, first_label=1, seed=2)
    (raw / "ground_truth.csv").write_text(
        "id,images,Usage\ntest0,database3 database1 elsewhere,Public\ntest1,None,Ignored\n"
    )
    return raw


def test_gldv2(tmp_path, gldv2):
    builders.prepare("gldv2", gldv2, tmp_path)
    splits = Landmarks(root=str(tmp_path)).load()
    assert splits.info.num_classes == 3
    assert [rows.tolist() for rows in splits.info.facts["relevant"]] == [[1, 3], []]
    (batch,) = pipeline.train_batches(splits, batch_size=6, seed=0, start_step=0, stop_step=1)
    assert batch.arrays["feature"].dtype == np.float32
    codes = pickle.loads((gldv2 / "train.txt").read_bytes())["codes"]
    np.testing.assert_allclose(batch.arrays["feature"], codes[batch.indices["train"]], atol=2e-3)
    np.testing.assert_array_equal(np.sort(batch.arrays["label"]), [0, 0, 1, 1, 2, 2])
    assert set(batch.ids) == {f"train{i}" for i in range(6)}


def test_revisited_oxford(tmp_path, gldv2):
    builders.prepare("gldv2", gldv2, tmp_path)
    raw = tmp_path / "oxford"
    make.descriptors(raw / "test.txt", 2, first_label=0, seed=1)
    make.descriptors(raw / "database.txt", 5, first_label=0, seed=2)
    truth = [
        {"easy": [0, 2], "hard": np.array([1]), "junk": [], "bbx": [0.0, 1.0, 2.0, 3.0]},
        {"easy": [], "hard": [4], "junk": [3], "bbx": [0.0, 1.0, 2.0, 3.0]},
    ]
    gnd = {"imlist": list("abcde"), "qimlist": list("xy"), "gnd": truth}
    (raw / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(gnd, protocol=2))
    builders.prepare("roxford5k", raw, tmp_path)
    info = Landmarks(database="roxford5k", root=str(tmp_path)).load().info
    np.testing.assert_array_equal(info.facts["kind"], [[1, 2, 1, 0, 0], [0, 0, 0, 3, 2]])

    gnd["gnd"] = truth[:1]
    (raw / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(gnd, protocol=2))
    with pytest.raises(DataError, match=r"gnd_roxford5k.pkl is about 1 queries.*2 and 5"):
        builders.prepare("roxford5k", raw, tmp_path / "other")


def test_damaged_descriptors_are_named(tmp_path, gldv2):
    (gldv2 / "database.txt").write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match=r"(?s)database.txt is damaged.*ground_truth.csv"):
        builders.prepare("gldv2", gldv2, tmp_path)
    (gldv2 / "database.txt").unlink()
    with pytest.raises(DataError, match=r"database.txt is missing"):
        builders.prepare("gldv2", gldv2, tmp_path)
