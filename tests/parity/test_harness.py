"""The harness itself: it must not let a wrong implementation pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.parity.adapters import adapter, adapter_for
from tests.parity.golden import Golden, absolute, nchw, nhwc
from tests.parity.weights import GoldenError, generated, weights_of


@pytest.fixture
def golden(tmp_path):
    def write(arrays, name="harness__case", **meta):
        system, component = name.split("__")
        meta = {"system": system, "component": component, "seed": 3, "tolerance": 1e-3, **meta}
        path = tmp_path / f"{name}.npz"
        np.savez(path, meta=np.array(json.dumps(meta)), **arrays)
        return Golden(path)

    return write


X = np.array([3.0, 4.0], np.float32)


def test_the_measure_is_the_relative_l2_error(golden):
    file = golden({"out/y": X})
    assert file.check("out/y", X + np.array([0.003, 0.004])) == pytest.approx(1e-3, rel=1e-4)
    assert golden({"out/y": 0 * X}).check("out/y", X) == 5


@pytest.mark.parametrize(
    "value", [X * 1.002, X[:1], np.array([np.nan, 4]), np.array([np.inf, 4]), X[None]]
)
def test_wrong_values_fail(golden, value):
    file = golden({"out/y": X, "grad/x": X})
    file.check("out/y", value)
    file.check("grad/x", X)
    with pytest.raises(AssertionError, match="out/y") as error:
        file.finish()
    assert "grad/x" not in str(error.value)


def test_an_output_that_nobody_compared_fails(golden):
    file = golden({"in/x": X, "out/y": X, "grad_norm/w": X})
    file.check("out/y", X)
    with pytest.raises(AssertionError, match="grad_norm/w: not compared"):
        file.finish()
    file.leave_out("grad_norm/*", "rounding noise, says the file")
    file.finish()


def test_whole_numbers_must_be_equal(golden):
    ranks = np.arange(1000, 2000)
    file = golden({"out/ranks": ranks, "out/levels": ranks.astype(np.uint8)})
    file.check("out/ranks", ranks + (ranks == 1500))
    file.check("out/levels", ranks.astype(np.uint8) ^ 1, 1, measure=absolute)
    with pytest.raises(AssertionError, match="1 of 2") as error:
        file.finish()
    assert "out/ranks" in str(error.value)


@pytest.mark.parametrize(
    ("meta", "name", "expected"),
    [
        ({}, "out/y", 1e-3),
        ({"tolerance_grad": 0.1}, "grad/w", 0.1),
        ({"grad_tolerance": 0.1}, "grad/case/w", 0.1),
        ({"grad_tolerance": 0.1}, "out/y", 1e-3),
        ({"grad_tolerance": 0.1}, "out/param_grad_norms", 0.1),
        ({"grad_tolerance": 0.1, "grad_norm_tolerance": 0.2}, "grad_norm/w", 0.2),
        ({"tolerances": {"out/y": 0.3}}, "out/y", 0.3),
        ({"tolerance_per_array": {"grad/w": 0.3}, "grad_tolerance": 0.1}, "grad/w", 0.3),
        ({"case_tolerance": {"blur": 0.4}}, "grad/blur/x", 0.4),
        ({"tolerance": {"out": 0.5, "grad": 0.6}}, "grad/w", 0.6),
        ({"tolerance": {"out": 0.5, "grad": 0.6}}, "out/grad_norms", 0.6),
        ({"tolerance": {"losses": [0.1, 0.2], "grad": {"w": 0.7}}}, "grad/w", 0.7),
        ({"tolerance": {"losses": [0.1, 0.2], "param": 0.8}}, "out/losses", [0.1, 0.2]),
        ({"tolerance": {"queue": 0.3, "loss": 0.8}}, "out/image_queue", 0.3),
        ({"tolerance": {"losses": [0.1, 0.2], "param": 0.8}}, "out/param/fc.weight", 0.8),
    ],
)
def test_tolerances_are_the_files_own(golden, meta, name, expected):
    assert golden({name: X}, **meta).tolerance(name) == expected


def test_a_tolerance_that_the_file_does_not_state_is_not_guessed(golden):
    file = golden({"out/y": X}, tolerance={"losses": 1e-3, "measured": {"out": 1}})
    with pytest.raises(GoldenError, match="pass one of them"):
        file.check("out/y", X)
    file.check("out/y", X, file.meta["tolerance"]["losses"])
    file.finish()


def test_one_tolerance_for_each_step(golden):
    losses = np.ones(3, np.float32)
    file = golden({"out/losses": losses}, tolerance=[1e-6, 1e-3, 1e-1])
    file.check("out/losses", losses + np.array([0, 5e-4, 5e-2]))
    file.finish()
    file.check("out/losses", losses + np.array([5e-4, 0, 0]))
    with pytest.raises(AssertionError, match="out/losses"):
        file.finish()


def test_norms_in_the_stated_order(golden):
    tensors = {"b": 2 * X, "a": X}
    file = golden({"out/param_grad_norms": np.array([5.0, 10.0])}, param_order=["a", "b"])
    file.check_norms("out/param_grad_norms", tensors, "param_order")
    file.finish()
    with pytest.raises(GoldenError, match="b"):
        file.check_norms("out/param_grad_norms", {"a": X}, "param_order")


def test_weights_follow_from_names_shapes_and_seed():
    weights = weights_of(
        {},
        shapes := {
            "bn.running_var": (64,),
            "bn.running_mean": (64,),
            "bn.weight": (64,),
            "bn.bias": (64,),
            "bn.num_batches_tracked": (),
            "conv.weight": (32, 16, 3, 3),
        },
        seed=5,
    )
    assert {k: v.shape for k, v in weights.items()} == shapes
    assert weights["bn.num_batches_tracked"].dtype == np.int64
    assert 0.5 <= weights["bn.running_var"].min() < weights["bn.running_var"].max() <= 1.5
    assert weights["conv.weight"].std() == pytest.approx(1 / 12, rel=0.05)
    assert weights["bn.weight"].mean() == pytest.approx(1, abs=0.05)
    # Numbers of the scheme itself, so that a changed stream cannot pass unseen.
    pinned = [0.16191079, -0.7100095, 0.73254657, -0.6893914]
    np.testing.assert_array_equal(generated("fc.weight", (1, 4), 7)[0], np.float32(pinned))
    alone = weights_of({}, {"bn.bias": (64,)}, seed=5)
    np.testing.assert_array_equal(alone["bn.bias"], weights["bn.bias"])


def test_adjustments_of_the_weights():
    shapes = {"a.weight": (4, 9), "b.weight": (4, 9), "b.bias": (4,), "blur": (2, 1, 3, 3)}
    plain = weights_of({}, shapes, seed=1)

    def adjusted(**meta):
        return weights_of(meta, shapes, seed=1)

    np.testing.assert_array_equal(
        adjusted(scale={"a.weight": 0.25})["a.weight"], plain["a.weight"] / 4
    )
    scaled = adjusted(weight_scale=2.0)
    np.testing.assert_array_equal(scaled["b.weight"], plain["b.weight"] * 2)
    np.testing.assert_array_equal(scaled["b.bias"], plain["b.bias"])
    unit = adjusted(unit_scale_keys=["a.weight"])["a.weight"]
    np.testing.assert_allclose(unit, plain["a.weight"] * 3, rtol=1e-6)
    blur = adjusted(blur_keys=["blur"])["blur"]
    np.testing.assert_array_equal(blur[1, 0] * 16, np.outer([1, 2, 1], [1, 2, 1]))
    shared = adjusted(alias={"b.weight": "a.weight"})
    np.testing.assert_array_equal(shared["b.weight"], plain["a.weight"])
    worded = adjusted(rescale={"a.* and b.weight": "multiply by float32(sqrt(2))"})
    np.testing.assert_array_equal(worded["a.weight"], plain["a.weight"] * np.sqrt(np.float32(2)))
    np.testing.assert_array_equal(worded["b.bias"], plain["b.bias"])
    np.testing.assert_array_equal(
        adjusted(rescale={"a.weight": 3.0})["a.weight"], plain["a.weight"] * 3
    )
    with pytest.raises(GoldenError, match="no factor"):
        adjusted(rescale={"a.*": "a little larger"})


def test_weights_of_one_network_among_several(golden):
    stored = {"state/g/w": np.ones((2, 2), np.float16)}
    nested = golden(stored, shapes={"g": {"w": [2, 2]}, "d": {"w": [2, 2]}}, seed={"g": 1, "d": 2})
    np.testing.assert_array_equal(nested.weights("g")["w"], np.ones((2, 2), np.float32))
    assert nested.weights("g")["w"].dtype == np.float32
    np.testing.assert_array_equal(nested.weights("d")["w"], generated("w", (2, 2), 2))
    prefixed = golden({}, shapes={"net/w": [2, 2], "head/w": [2, 2]})
    np.testing.assert_array_equal(prefixed.weights("net")["w"], generated("w", (2, 2), 3))
    other = prefixed.weights("head", seed=4)
    np.testing.assert_array_equal(other["w"], generated("w", (2, 2), 4))
    own = golden({}, G={"shapes": {"w": [2, 2]}, "seed": 9})
    np.testing.assert_array_equal(own.weights("G")["w"], generated("w", (2, 2), 9))


def test_a_file_without_adapter_fails_and_says_so(golden):
    with pytest.raises(GoldenError, match=r"(?s)no adapter for system 'nobody'.*@adapter"):
        adapter_for(golden({}, name="nobody__knows"))


def test_a_run_over_a_folder_fails_for_a_file_without_adapter(golden):
    folder = golden({"out/y": X}, name="nobody__knows").path.parent
    command = [sys.executable, "-m", "pytest", "tests/parity/test_golden.py", "-q", "--golden"]
    root = Path(__file__).parents[2]
    run = subprocess.run([*command, str(folder)], cwd=root, capture_output=True, text=True)
    assert run.returncode == 1
    assert "no adapter for system 'nobody', component 'knows'" in run.stdout
    nothing = subprocess.run(
        [*command, str(folder / "x")], cwd=root, capture_output=True, text=True
    )
    assert nothing.returncode != 0
    assert "no <system>__<component>.npz files there" in nothing.stdout + nothing.stderr


def test_an_adapter_serves_sibling_names(golden, monkeypatch):
    monkeypatch.setattr("tests.parity.adapters._REGISTERED", [])
    adapter("harness", r"resnet(\d+)_eval")(print)
    for name in ("harness__resnet50_eval", "harness__resnet101_eval"):
        assert adapter_for(golden({}, name=name)).run is print
    adapter("harness", r"resnet50.*")(print)
    with pytest.raises(GoldenError, match="several"):
        adapter_for(golden({}, name="harness__resnet50_eval"))


def test_layouts():
    x = np.zeros((2, 3, 4, 5))
    assert nhwc(x).shape == (2, 4, 5, 3)
    assert nchw(nhwc(x)).shape == x.shape
    assert nhwc(x[0]).shape == (4, 5, 3)
