"""Inputs that a frozen network reads once, before the first update."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxcog import experiments
from jaxcog.errors import ConfigError
from jaxcog.training import start
from tests.systems.qat.worlds import raw_experiment


def test_inputs_pass_through_the_frozen_network_once_on_any_mesh():
    experiment = raw_experiment()
    splits = experiment.data.load()
    program = start.assemble_for(experiment, splits, jax.devices()[:4])
    state = program.init(program.root_key())
    done = start.embedded(program, state, splits)
    assert done.rebuilt is None
    inputs = done.train.source.inputs
    assert inputs.shape == (len(splits.inputs), *program.batch_struct["query"].shape[1:])
    want = jax.jit(program.task.embed)(jax.device_get(state), splits.inputs)
    np.testing.assert_allclose(inputs, want, rtol=1e-5, atol=1e-6)


def test_a_task_without_a_frozen_network_refuses_such_data():
    experiment = raw_experiment()
    splits = experiment.data.load()
    program = start.assemble_for(experiment, splits, jax.devices()[:1])
    bare = dataclasses.replace(program, task=dataclasses.replace(program.task, embed=None))
    with pytest.raises(ConfigError, match="frozen network"):
        start.embedded(bare, None, splits)


def test_other_data_is_left_alone():
    experiment = experiments.load("qat/events").experiment(tiny=True)
    splits = experiment.data.load()
    assert start.embedded(None, None, splits) is splits
