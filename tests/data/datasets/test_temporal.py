"""ActivityNet-1.3 and THUMOS14: small copies of the layouts as distributed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxcog.data.builders import prepare
from jaxcog.data.datasets import temporal, temporal_annotations, temporal_recipes
from jaxcog.data.datasets.temporal import ActivityNetBase, ActivityNetEpisodes, ThumosEpisodes
from jaxcog.data.pipeline import eval_batches
from jaxcog.data.prepared import Entry, Recipe
from jaxcog.errors import DataError

BASE, TEST = "Archery", "BMX"


def annotate(label: str, *segments: tuple[float, float]) -> list[dict[str, object]]:
    return [{"label": label, "segment": list(segment)} for segment in segments]


def write_activitynet(raw: Path, width: int = 500) -> dict[str, dict]:
    """Five videos a class and subset, features of lengths 20, 21, ..."""
    raw.mkdir(exist_ok=True)
    (raw / "c3d").mkdir()
    table, lines, random = {}, [], np.random.default_rng(0)
    names = [BASE, TEST, *temporal_annotations.ANET_VALIDATION[:1]]
    names += [name for name in temporal_annotations.ANET_TEST if name != TEST]
    names += list(temporal_annotations.ANET_VALIDATION[1:])
    videos = [
        (label, subset)
        for label in names
        for subset in ("training", "validation")
        for _ in range(5 if label in (BASE, TEST, names[2]) else 1)
    ]
    for i, (label, subset) in enumerate(videos):
        name = f"v_{i:03d}"
        found = annotate(label, (2.0, 5.0), (8.0, 9.0)) if i % 5 == 0 else annotate(label, (3, 9))
        table[name] = {
            "duration_second": 20.0, "duration_frame": 400, "feature_frame": 400,
            "annotations": found,
        }  # fmt: skip
        lines.append(f"{name},400,20,20,20,{subset},400")
        np.save(raw / "c3d" / f"{name}.npy", random.standard_normal((20 + i, width)))
    table["v_test"] = {"duration_second": 9.0, "duration_frame": 9, "feature_frame": 9,
                       "annotations": []}  # fmt: skip
    lines.append("v_test,9,9,1,1,testing,9")
    (raw / "anet_anno_action.json").write_text(json.dumps(table))
    head = "video,numFrame,seconds,fps,rfps,subset,featureFrame"
    (raw / "video_info_new.csv").write_text("\n".join([head, *lines]))
    return table


@pytest.fixture(scope="module")
def activitynet(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("anet")
    write_activitynet(folder / "raw")
    report = prepare("activitynet13_c3d", folder / "raw", folder / "out")
    assert report.counts == {"training": 53, "validation": 53}
    return folder / "out"


def test_the_base_stage_learns_from_base_classes_alone(activitynet: Path):
    splits = ActivityNetBase(root=str(activitynet)).load()
    assert len(splits.train.source) == 5
    everyone = ActivityNetBase(root=str(activitynet), released_base_list=True).load()
    assert len(everyone.train.source) == 53
    batch = next(eval_batches(splits.evaluation["validation"], batch_size=2, prefetch=0)).arrays
    for name, struct in splits.info.element.items():
        assert batch[name].shape == (2, *struct.shape)
    assert batch["iou_map"].max() > 0.9


def test_episodes_of_every_class_of_the_split(activitynet: Path):
    data = ActivityNetEpisodes(
        root=str(activitynet), parts=("test",), longer_than=(0.15, 0.0), repeats=2
    )
    with pytest.raises(DataError, match=r"test classes with fewer than 2 videos.*Breakdancing \(1"):
        data.load()


def test_pools_hold_what_the_protocol_says(activitynet: Path):
    data = ActivityNetEpisodes(root=str(activitynet))
    prepared = data._open()
    classes, names = data._parts(prepared), tuple(prepared.metadata["class_names"])
    assert len(classes["base"]) == 1
    assert len(classes["test"]) == len(classes["validation"]) == 20
    records, features = prepared.records("validation", stored=temporal._FIELDS), []
    multi = data._pool(records, classes["base"], names, 0.0, features)
    assert len(multi) == len(features) == 5
    assert features[0].shape == (100, 500)
    assert multi.repeats.tolist() == [2, 1, 1, 1, 1]
    np.testing.assert_array_equal(multi.mask[1], np.float32(np.abs(np.arange(100) - 29.5) < 15))
    # Instances of 3 of 20 seconds, and of 1, fill no fifth of their video.
    longer = data._pool(records, classes["base"], names, 0.2, [])
    assert len(longer) == 4
    single = ActivityNetEpisodes(root=str(activitynet), instances="single")
    assert len(single._pool(records, classes["base"], names, 0.0, [])) == 4


def test_another_kind_of_features_is_named(activitynet: Path):
    with pytest.raises(DataError, match="jaxcog prepare activitynet13_tsn"):
        ActivityNetBase(root=str(activitynet), features="tsn").load()


def read_all(recipe: Recipe, raw: Path) -> list[Entry]:
    return [entry for entries in recipe.read(raw).splits.values() for entry in entries]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        ("no features", r"1 of 106 videos have no features .*v_003.*skip\.txt"),
        ("another width", r"v_003 has features \[4, 7\], expected \[any, 500\]"),
        ("outside", r"v_003: the segment from 30 to 40 s does not lie in the video of 20 s"),
        ("reversed", "v_003: the segment from 9 to 3 s"),
        ("no table", r"video_info_new\.csv is missing"),
        ("damaged", r"anet_anno_action\.json is no JSON"),
        ("no store", "neither sub_activitynet"),
        ("another column", "no column subset"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, break_it: str, message: str):
    raw = tmp_path / "raw"
    table = write_activitynet(raw)
    file = raw / "c3d" / "v_003.npy"
    if break_it == "no features":
        file.unlink()
    elif break_it == "another width":
        np.save(file, np.zeros((4, 7)))
    elif break_it in ("outside", "reversed"):
        segment = [30, 40] if break_it == "outside" else [9, 3]
        table["v_003"]["annotations"][0]["segment"] = segment
        (raw / "anet_anno_action.json").write_text(json.dumps(table))
    elif break_it == "no table":
        (raw / "video_info_new.csv").unlink()
    elif break_it == "damaged":
        (raw / "anet_anno_action.json").write_text("{")
    elif break_it == "no store":
        (raw / "c3d").rename(raw / "features")
    else:
        text = (raw / "video_info_new.csv").read_text()
        (raw / "video_info_new.csv").write_text(text.replace("subset", "part"))
    recipe = next(
        recipe for recipe in temporal_recipes.RECIPES if recipe.name == "activitynet13_c3d"
    )
    with pytest.raises(DataError, match=message):
        read_all(recipe, raw)
    if break_it == "no features":
        (raw / "skip.txt").write_text("v_003\n")
        listing = recipe.read(raw)
        assert listing.skipped == ["v_003"]
        assert len(read_all(recipe, raw)) == 105


def test_features_that_should_be_rescaled_already_and_are_not_are_named():
    features = np.zeros((90, 400), np.float32)
    with pytest.raises(DataError, match=r"v_1 has features \[90, 400\], expected \[100, 400\]"):
        temporal_recipes._checked(features, Path("csv_mean_100.hdf5"), "v_1", 100, 400)


def test_windows_of_thumos_cover_the_video():
    assert temporal_recipes.windows(100) == [0]
    assert temporal_recipes.windows(256) == [0]
    assert temporal_recipes.windows(300) == [
        0
    ]  # 44 snippets remain: not more than a fifth of a window
    assert temporal_recipes.windows(310) == [0, 54]
    assert temporal_recipes.windows(600) == [0, 128, 256, 344]


def write_thumos(raw: Path, width: int = 1024) -> None:
    """Three videos a subset with two classes; 30 frames a second, 2000 frames."""
    raw.mkdir()
    random = np.random.default_rng(0)
    for part in ("val", "test"):
        lines = ["video,type,type_idx,start,end,startFrame,endFrame"]
        for i in range(3):
            name = f"video_{part}_{i}"
            for kind, start, end in (("ThrowDiscus", 3, 6), ("VolleyballSpiking", 50, 52),
                                     ("Diving", 20, 21), ("Ambiguous", 1, 2)):  # fmt: skip
                frames = f"{30 * start},{30 * end}"
                lines.append(f"{name},{kind},1,{start},{end},{frames}")
            for stream in ("flow", "rgb"):
                folder = raw / f"{stream}_{part}"
                folder.mkdir(exist_ok=True)
                np.save(folder / f"{name}.npy", random.random((2000, width), np.float32))
        (raw / f"{part}_Annotation.csv").write_text("\n".join(lines))


def test_thumos_as_windows_with_every_class_an_example(tmp_path: Path):
    write_thumos(tmp_path / "raw")
    report = prepare("thumos14_i3d", tmp_path / "raw", tmp_path / "out")
    # 400 snippets: a window from 0 to 42.7 s, and one from 21.3 s on.
    assert report.counts["training"] == report.counts["validation"] == 6
    data = ThumosEpisodes(root=str(tmp_path / "out"), parts=("test",))
    prepared = data._open()
    classes, names = data._parts(prepared), tuple(prepared.metadata["class_names"])
    records = prepared.records("validation", stored=temporal._FIELDS)
    pool = data._pool(records, classes["test"], names, 0.0, [])
    assert sorted(np.bincount(pool.label)[classes["test"]]) == [3, 3]
    discus = pool.select(np.flatnonzero(pool.label == names.index("ThrowDiscus")))
    np.testing.assert_allclose(discus.segments[:, 0], np.tile([3, 6], (3, 1)))
    np.testing.assert_allclose(discus.duration, 256 * 5 / 30, rtol=1e-6)


def test_thumos_annotations_as_json(tmp_path: Path):
    notes = [{"label": "Diving", "segment": ["1.5", "2.5"]}]
    database = {"video_test_1": {"subset": "test", "annotations": notes}}
    (tmp_path / "thumos_gt.json").write_text(json.dumps({"database": database}))
    (video,) = temporal_annotations.read_thumos(tmp_path)
    assert (video.subset, video.names, video.frame_rate) == ("validation", ("Diving",), 30.0)
    np.testing.assert_array_equal(video.segments, [[1.5, 2.5]])


def test_class_splits_forgive_blanks_and_name_strangers():
    names = ("a", "b", "c")
    parts = temporal_annotations.class_parts(names, (" b",), ("c",))
    assert parts == {"base": ("a",), "validation": ("b",), "test": ("c",)}
    with pytest.raises(DataError, match="no class d"):
        temporal_annotations.class_parts(names, ("d",), ("c",))
    assert len(temporal_annotations.ANET_TEST) == len(temporal_annotations.ANET_VALIDATION) == 20
    assert not set(temporal_annotations.ANET_TEST) & set(temporal_annotations.ANET_VALIDATION)
