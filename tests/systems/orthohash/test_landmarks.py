"""One run on landmark descriptors, judged on its own database and on another, from raw files."""

from __future__ import annotations

import json
import pickle

import numpy as np

from jaxcog import cli, experiments
from jaxcog.config import override
from jaxcog.data import builders
from jaxcog.data.datasets.landmarks import Landmarks
from jaxcog.training import loop
from jaxcog.training.progress import Silent
from tests.data.datasets import raw as make


def prepare(folder):
    raw = folder / "raw"
    for name, first_label in (("gldv2", 1), ("roxford5k", 0)):
        for seed, (file, count) in enumerate((("train", 32), ("test", 3), ("database", 30))):
            make.descriptors(raw / name / f"{file}.txt", count, first_label=first_label, seed=seed)
    (raw / "gldv2/ground_truth.csv").write_text("id,images\ntest0,database3 database1\n")
    truth = [{"easy": [q], "hard": [q + 3, q + 6], "junk": [q + 9]} for q in range(3)]
    gnd = {"imlist": list(range(30)), "qimlist": list(range(3)), "gnd": truth}
    (raw / "roxford5k/gnd_roxford5k.pkl").write_bytes(pickle.dumps(gnd, protocol=2))
    for name in ("gldv2", "roxford5k"):
        builders.prepare(name, raw / name, folder)


def test_a_run_is_judged_on_another_database_by_flags_alone(tmp_path, capsys):
    prepare(tmp_path)
    experiment = override(
        experiments.load("orthohash/gldv2").experiment(tiny=True),
        {"data": Landmarks(root=str(tmp_path)), "train.eval_batch_size": 16},
    )
    run = tmp_path / "run"
    outcome = loop.train(experiment, run, "orthohash/gldv2", Silent())
    assert "mAP@8" in outcome.metrics

    flags = "--data.database roxford5k --task.protocol revisited --task.map-at None"
    capsys.readouterr()
    for more in ([], ["--task.recalibrate"]):
        assert cli.main(["eval", str(run), "--json", *flags.split(), *more]) == 0
        metrics = json.loads(capsys.readouterr().out)["metrics"]
        assert {"easy/mAP", "medium/mAP", "hard/mAP"} <= set(metrics)
        assert all(0 <= np.float64(value) <= 1 for value in metrics.values())
