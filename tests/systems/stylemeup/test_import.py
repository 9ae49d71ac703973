"""`jaxcog import-torch` from a file with the authors' names, and `jaxcog predict` from there."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from jaxcog import cli
from jaxcog.systems.stylemeup import CrossModalVAE
from jaxcog.systems.stylemeup.torch_names import table_for
from jaxcog.training import checkpoint
from jaxcog.trees import by_path

SMALL = {"latent": 8, "widths": (4, 8), "hidden": 16}
SVG = '<svg viewBox="0 0 90 90"><path d="M10 10 L80 20 L40 80 Z"/></svg>'


def flags() -> list[str]:
    words = ["--data.size", "16"]
    for name, value in SMALL.items():
        many = value if isinstance(value, tuple) else (value,)
        words += [f"--task.network.{name}", *map(str, many)]
    return words


def photo(file: Path, seed: int) -> None:
    file.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(file)


def test_an_official_file_retrieves(tmp_path: Path, capsys):
    """Every key comes back; a sketch is looked for before and after a look at the user's pairs.

    The config's 12 tasks a step do not divide over the eight devices here, and need not.
    """
    vae = CrossModalVAE(image_size=16, **SMALL)
    shapes = jax.eval_shape(vae.init, jax.random.key(0))[0]
    random = np.random.default_rng(0)
    ours = jax.tree.map(lambda x: random.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    tensors = table_for(8, 4).to_torch({"params": ours})
    file = tmp_path / "VGG_ShoeV2_model_best.safetensors"
    save_file({f"module.{k}": np.ascontiguousarray(v) for k, v in tensors.items()}, file)
    out = tmp_path / "imported"
    command = ["import-torch", "stylemeup", str(file), *flags(), "--out", str(out), "--json"]
    assert cli.main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert {key for key, _ in report["used"]} == tensors.keys()
    restored = by_path(checkpoint.restore_tree(out)["params"])
    for path, value in by_path(ours).items():
        np.testing.assert_array_equal(restored[path], value)

    (tmp_path / "query.svg").write_text(SVG)
    for i in range(3):
        photo(tmp_path / "photos" / f"p{i}.png", i)
    for i in range(2):
        photo(tmp_path / "mine" / f"m{i}.png", 10 + i)
        (tmp_path / "mine" / f"m{i}.svg").write_text(SVG.replace("10", str(20 + i)))
    inputs = [str(tmp_path / name) for name in ("query.svg", "mine", "photos")]
    shown = tmp_path / "shown"
    assert cli.main(["predict", str(out), *inputs, "--out", str(shown)]) == 0
    page = (shown / "index.html").read_text()
    assert "query.svg, before" in page
    assert "query.svg, after" in page
