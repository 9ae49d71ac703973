from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcog.data.datasets.chinese_tasks import THUC, THUCNews, ToutiaoNews, Visual7W
from jaxcog.data.datasets.web_pairs import AICCaptions, NamedScenes
from jaxcog.data.wordpiece import small_vocabulary
from jaxcog.errors import DataError

SMALL = {"vocabulary": None, "vocab": len(small_vocabulary()), "text_length": 12}
RANDOM = np.random.default_rng(0)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (200, 30, 30)).save(path)


def shapes(splits) -> dict:
    record = splits.train.transform(splits.train.source[0], RANDOM)
    return {name: np.shape(value) for name, value in record.items()}


def wanted(splits) -> dict:
    return {name: struct.shape for name, struct in splits.info.element.items()}


def test_toutiao(tmp_path: Path):
    path = tmp_path / "toutiao_cat_data.txt"
    lines = [f"{i}_!_102_!_news_car_!_title {i}_!_words" for i in range(20)]
    path.write_text("\n".join(lines))
    splits = ToutiaoNews(path=str(path), **SMALL).load()
    assert len(splits.train.source) == 18
    assert len(splits.evaluation["test"].source) == 2
    assert shapes(splits) == wanted(splits)
    assert splits.info.facts["class_ids"].shape == (15, 1, 12)
    path.write_text("not a line")
    with pytest.raises(DataError, match="line 1: 'not a line' is not id_!_code"):
        ToutiaoNews(path=str(path), **SMALL).load()


def test_thucnews(tmp_path: Path):
    for name in THUC:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.txt").write_text("text")
    splits = THUCNews(root=str(tmp_path), tested=0.5, **SMALL).load()
    assert len(splits.train.source) == 7
    with pytest.raises(DataError, match="no folders 财经"):
        THUCNews(root=str(tmp_path / "none"), **SMALL).load()


def test_visual7w(tmp_path: Path):
    image(tmp_path / "images" / "v7w_1.jpg")
    pair = {
        "qa_id": 7,
        "question": "what",
        "answer": "right",
        "multiple_choices": ["a", "b", "c"],
        "type": "what",
    }
    images = [
        {"filename": "v7w_1.jpg", "split": split, "qa_pairs": [pair]}
        for split in ("train", "val", "test")
    ]
    path = tmp_path / "dataset_v7w_telling.json"
    path.write_text(json.dumps({"images": images}))
    splits = Visual7W(root=str(tmp_path), size=16, **SMALL).load()
    assert shapes(splits) == wanted(splits)
    record = splits.train.transform(splits.train.source[0], RANDOM)
    right = small_vocabulary().encode(["what right"], 12)[0][0]
    np.testing.assert_array_equal(record["ids"][record["label"]], right)
    path.write_text("{}")
    with pytest.raises(DataError, match="is not Visual7W's file of questions"):
        Visual7W(root=str(tmp_path), size=16, **SMALL).load()


def test_aic_icc(tmp_path: Path):
    for file, folder in AICCaptions._FILES.values():
        image(tmp_path / folder / "x.jpg")
        entry = {"image_id": "x.jpg", "caption": ["a b", "c d", "e", "f", "g"]}
        (tmp_path / file).write_text(json.dumps([entry]))
    splits = AICCaptions(root=str(tmp_path), size=16, **SMALL).load()
    assert shapes(splits) == wanted(splits)
    assert len(splits.evaluation["valid"].source) == 5
    assert splits.train.source[0]["texts"][0] == ("caption", "ab")
    with pytest.raises(DataError, match=r"caption_train_annotations_20170902\.json is missing"):
        AICCaptions(root=str(tmp_path / "none"), **SMALL).load()


def test_named_scenes(tmp_path: Path):
    for folder in ("beach", "forest"):
        image(tmp_path / folder / "0.tif")
    names = (("beach", "a beach"), ("forest", "a forest"))
    data = NamedScenes(root=str(tmp_path), size=16, names=names, prompts=("{}",), **SMALL)
    splits = data.load()
    assert shapes(splits) == wanted(splits)
    assert splits.info.class_names == ("a beach", "a forest")
    with pytest.raises(DataError, match=r"data\.names says nothing of forest"):
        NamedScenes(root=str(tmp_path), names=names[:1], **SMALL).load()
