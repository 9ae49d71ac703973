"""Landmark descriptors: Google Landmarks v2, Revisited Oxford and Paris, one vector an image.

2048 numbers an image, from DELG; OrthoHash (NeurIPS 2021) learns hash codes on top of them.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxcog.data.prepared import ROOT, Entry, Listing, Prepared, Recipe, open_prepared
from jaxcog.data.types import ArraySource, Record, Splits, Stream
from jaxcog.errors import CheckpointError
from jaxcog.interop.read import read_object
from jaxcog.task import DataInfo

KINDS = {"easy": 1, "hard": 2, "junk": 3}
"""What a database image is to a query of the revisited sets; 0: a negative."""

_CLASSES = 81_313


def _entries(recipe: Recipe, path: Path, first_label: int) -> list[Entry]:
    """A torch.save file of {"codes" [N, D], "labels" [N], "id" [N]}."""
    if not path.is_file():
        raise recipe.expected(f"{path} is missing")
    try:
        stored = read_object(path)
        codes = np.asarray(stored["codes"], np.float32)
        labels = np.asarray(stored.get("labels", np.zeros(len(codes)) + first_label))
        names = stored.get("id", range(len(codes)))
    except (CheckpointError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise recipe.expected(f"{path} is damaged ({error})") from error
    if codes.ndim != 2 or len(codes) == 0 or not len(codes) == len(labels) == len(names):
        raise recipe.expected(
            f"{path}: codes {list(codes.shape)}, labels {list(labels.shape)} and {len(names)} ids "
            "do not belong together"
        )
    return list(_rows(path, codes, labels.reshape(len(codes), -1)[:, 0] - first_label, names))


def _rows(
    path: Path, codes: np.ndarray, labels: np.ndarray, names: Sequence[Any]
) -> Iterator[Entry]:
    for name, code, label in zip(names, codes, labels, strict=True):
        yield Entry(str(name), {"feature": code, "label": np.int32(label)})


def _read_gldv2(raw: Path) -> Listing:
    splits = {
        split: _entries(_GLDV2, raw / file, first_label=1)
        for split, file in (
            ("train", "train.txt"),
            ("query", "test.txt"),
            ("database", "database.txt"),
        )
    }
    negative = [entry.file for entry in splits["train"] if entry.record["label"] < 0]
    if negative:
        raise _GLDV2.expected(f"train.txt: {negative[0]} has a label below 1")
    path = raw / "ground_truth.csv"
    if not path.is_file():
        raise _GLDV2.expected(f"{path} is missing")
    place = {entry.file: i for i, entry in enumerate(splits["database"])}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"id", "images"} <= set(reader.fieldnames or ()):
            raise _GLDV2.expected(f"{path} has no columns id and images")
        truth = {row["id"]: row["images"].split() for row in reader}
    relevant = [
        sorted(place[name] for name in truth.get(entry.file, ()) if name in place)
        for entry in splits["query"]
    ]
    return _listing(splits, {"relevant": relevant})


def _read_revisited(recipe: Recipe, raw: Path) -> Listing:
    splits = {
        split: _entries(recipe, raw / file, first_label=0)
        for split, file in (("query", "test.txt"), ("database", "database.txt"))
    }
    path = raw / f"gnd_{recipe.name}.pkl"
    if not path.is_file():
        raise recipe.expected(f"{path} is missing")
    try:
        truth = read_object(path)
        kinds = [
            {kind: [int(i) for i in np.ravel(query[kind])] for kind in KINDS}
            for query in truth["gnd"]
        ]
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise recipe.expected(f"{path} is damaged ({error})") from error
    rows = [i for query in kinds for row in query.values() for i in row]
    last = max(rows, default=-1)
    if len(kinds) != len(splits["query"]) or last >= len(splits["database"]):
        raise recipe.expected(
            f"{path} is about {len(kinds)} queries and images up to number {last}, "
            f"the descriptors about {len(splits['query'])} and {len(splits['database'])}"
        )
    return _listing(splits, {"kinds": kinds})


def _listing(splits: Mapping[str, list[Entry]], metadata: Mapping[str, Any]) -> Listing:
    shape = splits["query"][0].record["feature"].shape
    features = {"feature": (shape, np.float32), "label": ((), np.int32)}
    return Listing(splits, features, metadata)


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """Learn on the 1.2 million descriptors of Google Landmarks v2, retrieve in one of three sets.

    Records: "feature" float32 [2048], "label" int32 (the landmark; 0 where it has no meaning).
    Splits "query" and "database". Facts: for "gldv2", "relevant": per query the rows of the
    database that show its landmark; for the revisited sets "kind": int8 [queries, database], 0
    negative, 1 easy, 2 hard, 3 junk.

    keep: type in which descriptors stay in memory; float16 takes 4.9 GB for the training set.
    """

    database: Literal["gldv2", "roxford5k", "rparis6k"] = "gldv2"
    keep: Literal["float16", "float32"] = "float16"
    root: str = ROOT

    def describe(self) -> DataInfo:
        """What a task must know, with published sizes; reads nothing."""
        return _info(2048, 1_200_000, _CLASSES, {})

    def load(self) -> Splits:
        """The prepared descriptors, in memory. Raises DataError where they were not prepared."""
        learn = open_prepared("gldv2", self.root)
        target = learn if self.database == "gldv2" else open_prepared(self.database, self.root)
        train = self._descriptors(learn, "train")
        query, database = (self._descriptors(target, split) for split in ("query", "database"))
        arrays = train.arrays
        facts: dict[str, Any] = {}
        if "relevant" in target.metadata:
            facts["relevant"] = [np.array(rows, int) for rows in target.metadata["relevant"]]
        if "kinds" in target.metadata:
            facts["kind"] = _kind_matrix(target.metadata["kinds"], len(database))
        classes = int(arrays["label"].max()) + 1
        info = _info(arrays["feature"].shape[1], len(arrays["label"]), classes, facts)
        found = {"train": train, "query": query, "database": database}
        streams = {
            name: Stream(source, batch_transform=_as_float32) for name, source in found.items()
        }
        return Splits(streams.pop("train"), streams, info)

    def _descriptors(self, prepared: Prepared, split: str) -> ArraySource:
        records = prepared.records(split, stored=("feature",))
        first = records[0]["feature"]
        features = np.empty((len(records), len(first)), self.keep)
        for row in range(len(records)):
            features[row] = records[row]["feature"]
        names = [file.decode() for file in records.files]
        arrays = {"feature": features, "label": records.columns["label"]}
        return ArraySource(arrays, names)


def _as_float32(batch: Record, random: np.random.Generator) -> Record:
    return {**batch, "feature": batch["feature"].astype(np.float32)}


def _kind_matrix(kinds: Sequence[Mapping[str, Sequence[int]]], size: int) -> np.ndarray:
    matrix = np.zeros((len(kinds), size), np.int8)
    for query, rows in enumerate(kinds):
        for name, value in KINDS.items():
            matrix[query, rows[name]] = value
    return matrix


def _info(width: int, examples: int, classes: int, facts: Mapping[str, Any]) -> DataInfo:
    return DataInfo(
        element={
            "feature": jax.ShapeDtypeStruct((width,), np.float32),
            "label": jax.ShapeDtypeStruct((), np.int32),
        },
        num_examples=examples,
        class_names=tuple(f"landmark {i}" for i in range(classes)),
        facts=facts,
    )


def _revisited(name: str, title: str) -> Recipe:
    def read(raw: Path) -> Listing:
        return _read_revisited(recipe, raw)

    recipe = Recipe(
        name,
        title,
        "  test.txt, database.txt  (torch.save of codes [N, 2048] and id)\n"
        f"  gnd_{name}.pkl  (imlist, qimlist, gnd with easy, hard, junk)",
        read,
    )
    return recipe


_GLDV2 = Recipe(
    "gldv2",
    "Google Landmarks v2, DELG descriptors",
    "  train.txt, test.txt, database.txt  (torch.save of codes [N, 2048], labels from 1, id)\n"
    "  ground_truth.csv  with columns id and images",
    _read_gldv2,
)
RECIPES = (
    _GLDV2,
    _revisited("roxford5k", "Revisited Oxford, DELG descriptors"),
    _revisited("rparis6k", "Revisited Paris, DELG descriptors"),
)
