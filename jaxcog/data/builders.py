"""`jaxcog prepare`: the datasets that can be brought from their own layout to ArrayRecord."""

from __future__ import annotations

import difflib
from pathlib import Path

from jaxcog.data.datasets import (
    domains,
    faces,
    few_labels,
    hashing,
    landmarks,
    parsing,
    person_tables,
    reid,
    segmentation_episodes,
    sketch_categories,
    sketches,
    temporal_recipes,
)
from jaxcog.data.prepared import ROOT, PrepareReport, Recipe, write
from jaxcog.errors import DataError

DATASETS: dict[str, Recipe] = {
    recipe.name: recipe
    for module in (
        domains,
        faces,
        few_labels,
        hashing,
        landmarks,
        parsing,
        person_tables,
        reid,
        segmentation_episodes,
        sketch_categories,
        sketches,
        temporal_recipes,
    )
    for recipe in module.RECIPES
}
"""Name on the command line -> how it is read."""


def prepare(name: str, raw: str | Path, out: str | Path | None = None) -> PrepareReport:
    """Writes dataset `name`, lying in folder `raw` as distributed, under `out` (~/jaxcog_data).

    Every image is decoded once; those that cannot be are left out and named in the report.

    Raises:
      DataError: an unknown name, a missing folder, list or class, or a dataset already prepared.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, 1)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        raise DataError(f'no dataset "{name}"{hint}; there are {", ".join(sorted(DATASETS))}')
    target = Path(ROOT if out is None else out).expanduser()
    return write(DATASETS[name], Path(raw).expanduser(), target)
