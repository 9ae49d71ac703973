"""CUHK-PEDES, ICFG-PEDES and RSTPReid: from small files of their layouts to batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxcog.data import builders, pipeline
from jaxcog.data.datasets.person_search import TextPersons, read_vocabulary, read_word_table
from jaxcog.data.datasets.person_tables import (
    LAYOUTS,
    convert_annotations,
    load_table,
    table_of,
)
from jaxcog.errors import DataError
from tests.data.datasets.raw import picture

CAPTIONS = (
    "The man wears a red T-shirt and blue jeans.",
    "A woman with a red coat and a blue bag.",
    "The man has blue jeans and a bag.",
)


def records(dataset: str, persons: int = 6) -> list[dict[str, Any]]:
    """Two images a person; two thirds of the persons are for training."""
    layout, made = LAYOUTS[dataset], []
    for person in range(persons):
        split = "train" if person < persons - 2 else ("val", "test")[person % 2]
        split = "test" if dataset == "icfg_pedes" and split == "val" else split
        for image in range(2):
            captions = [CAPTIONS[(person + image) % 3], CAPTIONS[(person + 1) % 3]]
            made.append(
                {
                    "split": split,
                    "captions": captions[: layout.captions],
                    layout.path: f"{'cam_a' if image else 'train_query'}/p{person}_{image}.png",
                    "id": person + layout.first_person,
                }
            )
    return made


def write_raw(raw: Path, dataset: str, made: list[dict[str, Any]]) -> Path:
    layout = LAYOUTS[dataset]
    for seed, record in enumerate(made):
        picture(raw / "imgs" / record[layout.path], seed, 24, 10)
    (raw / layout.annotations[0]).write_text(json.dumps(made))
    return raw


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_from_raw_files_to_batches(tmp_path: Path, dataset: str):
    raw = write_raw(tmp_path / "raw", dataset, records(dataset))
    table = load_table(dataset, raw)
    assert [image.person for image in table["train"]] == [0, 0, 1, 1, 2, 2, 3, 3]
    builders.prepare(dataset, raw, tmp_path)
    select_on = "test" if dataset == "icfg_pedes" else "val"
    data = TextPersons(dataset, size=(16, 8), per_identity=2, max_length=12, select_on=select_on,
                       root=str(tmp_path))  # fmt: skip
    splits = data.load()
    assert splits.info.element == data.describe().element
    assert splits.info.num_classes == 4
    captions = LAYOUTS[dataset].captions
    assert splits.info.num_examples == 4 * 2 * captions
    (batch,) = pipeline.train_batches(splits, batch_size=4, seed=0, start_step=0, stop_step=1)
    arrays = batch.arrays
    assert arrays["image"].shape == (4, 16, 8, 3)
    assert arrays["image"].dtype == np.float32
    assert len(set(arrays["person"])) == 2
    assert arrays["words"].shape == (4, 12)
    assert next(iter(splits.evaluation)) == select_on
    (test,) = pipeline.eval_batches(splits.evaluation["test"], batch_size=4)
    assert test.arrays["words"].shape == (4, captions, 12)
    assert (test.arrays["length"][test.arrays["mask"]] > 0).all()


def test_words_and_lengths_are_those_of_the_captions(tmp_path: Path):
    builders.prepare("cuhk_pedes", write_raw(tmp_path / "r", "cuhk_pedes", records("cuhk_pedes")),
                     tmp_path)  # fmt: skip
    splits = TextPersons(max_length=12, size=(16, 8), root=str(tmp_path)).load()
    vocabulary, rows = splits.info.facts["vocabulary"], splits.train.source.columns
    assert vocabulary[:4] == ["the", "man", "wears", "a"]
    first = splits.info.facts["decode"](rows["words"][0], vocabulary)
    assert first == "the man wears a red tshirt and blue jeans"
    assert rows["length"][0] == 9
    assert splits.info.facts["word_width"] is None  # nothing stands in for missing word vectors


def test_byte_pairs_instead_of_words(tmp_path: Path):
    builders.prepare("rstpreid", write_raw(tmp_path / "r", "rstpreid", records("rstpreid")),
                     tmp_path)  # fmt: skip
    made = {"dataset": "rstpreid", "tokens": "bpe", "size": (16, 8), "root": str(tmp_path)}
    splits = TextPersons(**made, max_length=20).load()
    words = splits.train.source.columns["words"]
    assert words[0, 0] == 49406
    assert words[0].max() == 49407
    assert splits.info.facts["vocabulary_size"] == 49408
    assert (
        splits.info.facts["decode"](words[0], ())
        == "the man wears a red t - shirt and blue jeans ."
    )
    with pytest.raises(DataError, match=r"_0.png has \d+ words or tokens, the context is 8.*cut"):
        TextPersons(**made, max_length=8).load()
    cut = TextPersons(**made, max_length=8, too_long="cut").load().train.source.columns
    assert (cut["words"][:, -1] == 49407).all()
    assert (cut["length"] == 8).all()


def test_the_converted_layout_gives_the_same_rows(tmp_path: Path):
    made = records("cuhk_pedes")
    raw = write_raw(tmp_path / "raw", "cuhk_pedes", made)
    ids, converted = convert_annotations(made)
    other = tmp_path / "converted"
    (other / "annotations").mkdir(parents=True)
    (other / "imgs").symlink_to(raw / "imgs")
    for split, content in converted.items():
        (other / "annotations" / f"{split}.json").write_text(json.dumps(content))
    found = []
    for name, folder in (("a", raw), ("b", other)):
        builders.prepare("cuhk_pedes", folder, tmp_path / name)
        splits = TextPersons(max_length=12, size=(16, 8), root=str(tmp_path / name)).load()
        assert splits.info.facts["vocabulary"] == list(ids)
        found.append(splits.train.source.columns)
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])
    content = converted["val"]
    content["annotations"][0]["onehot"][0] = 3
    (other / "annotations" / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"do not belong together|different vocabularies"):
        builders.prepare("cuhk_pedes", other, tmp_path / "c")


def test_bad_annotations_are_named():
    layout = LAYOUTS["cuhk_pedes"]

    def changed(place: int, **fields: Any) -> list[dict[str, Any]]:
        made = records("cuhk_pedes")
        made[place].update(fields)
        return made

    with pytest.raises(DataError, match=r"p1_0.png has no captions: add one, or remove"):
        table_of(changed(2, captions=[]), layout)
    shared = r"person 0 is in train \(train_query/p0_0.png\) and in test \(cam_a/p0_1.png\)"
    with pytest.raises(DataError, match=shared):
        table_of(changed(1, split="test"), layout)
    with pytest.raises(DataError, match=r"record 3 has no usable .*invalid literal"):
        table_of(changed(3, id="x"), layout)
    with pytest.raises(DataError, match=r'no record has "split": "train"'):
        table_of([], layout)


def test_bad_folders_are_named(tmp_path: Path):
    made = records("cuhk_pedes")
    raw = write_raw(tmp_path / "raw", "cuhk_pedes", made)
    (raw / "imgs" / "train_query").rename(raw / "elsewhere")
    with pytest.raises(DataError, match=r"(?s)imgs/train_query \(6 images\).*Expected under"):
        builders.prepare("cuhk_pedes", raw, tmp_path)
    (raw / "reid_raw.json").write_text("[{]")
    with pytest.raises(DataError, match=r"reid_raw.json cannot be read"):
        builders.prepare("cuhk_pedes", raw, tmp_path)
    (raw / "reid_raw.json").unlink()
    with pytest.raises(DataError, match=r"(?s)reid_raw.json is missing.*annotations/"):
        builders.prepare("cuhk_pedes", raw, tmp_path)


def test_bad_tables_and_vocabularies_are_named(tmp_path: Path):
    good, bad = tmp_path / "words.json", tmp_path / "bad.json"
    good.write_text('{"red": 2, "man": 1}')
    assert read_vocabulary(good) == ("man", "red")
    bad.write_text('{"red": 2, "man": 3}')
    with pytest.raises(DataError, match=r"ids must be 1 to 2"):
        read_vocabulary(bad)
    with pytest.raises(DataError, match=r"data.word_table=.*none.npy cannot be read"):
        read_word_table(tmp_path / "none.npy")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"one row of numbers an id"):
        read_word_table(tmp_path / "flat.npy")
    data = TextPersons(word_table=str(tmp_path / "t.npy"), vocabulary=str(good))
    np.save(tmp_path / "t.npy", np.zeros((3, 6)))
    facts = data.describe().facts
    assert (facts["vocabulary_size"], facts["word_width"]) == (3, 6)
