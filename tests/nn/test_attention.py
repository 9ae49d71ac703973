from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.interop.names import NameTable
from jaxcog.nn.attention import DropoutMasks, QueryAttention, attention_rules

B, N, M, D, HEADS = 2, 3, 11, 8, 4


def case(share, head_dim=None):
    keys = jax.random.split(jax.random.key(0), 3)
    query, memory = (jax.random.normal(k, (B, n, D)) for k, n in zip(keys, (N, M), strict=False))
    net = QueryAttention(HEADS, head_dim, share)
    return net, net.init(keys[2], query, memory), query, memory


def as_written(params, query, memory, share, attention=1.0, output=1.0):
    """The block with every projection made, head by head; factors in place of dropout."""
    q, k, v = (np.split(params["qkv" if share else name], HEADS, axis=1) for name in "qkv")
    heads = []
    for h in range(HEADS):
        scores = (query @ q[h]) @ (memory @ k[h]).mT / np.sqrt(q[h].shape[1])
        weights = jax.nn.softmax(scores) * (attention if np.ndim(attention) == 0
                                            else attention[:, h])  # fmt: skip
        heads.append(weights @ (memory @ v[h]))
    y = (jnp.concatenate(heads, -1) @ params["out"] + params["out_bias"]) * output + query
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return y * params["norm"]["scale"] + params["norm"]["bias"]


@pytest.mark.parametrize(("share", "head_dim"), [(True, None), (False, None), (False, 5)])
def test_is_attention_as_written(share, head_dim):
    net, variables, query, memory = case(share, head_dim)

    def ours(params, query, memory):
        return net.apply({"params": params}, query, memory).output

    def theirs(params, query, memory):
        return as_written(params, query, memory, share)

    args = variables["params"], query, memory
    np.testing.assert_allclose(ours(*args), theirs(*args), rtol=2e-5, atol=1e-5)
    grads = [jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), (0, 1, 2))(*args)
             for f in (ours, theirs)]  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *grads)


def test_given_and_drawn_masks():
    net, variables, query, memory = case(share=False)
    random = np.random.default_rng(0)
    masks = DropoutMasks(random.random((B, HEADS, N, M)) < 0.9, random.random((B, N, D)) < 0.5)
    ours = net.apply(variables, query, memory, train=True, masks=masks).output
    want = as_written(
        variables["params"], query, memory, False, masks.attention / 0.9, masks.output / 0.5
    )
    np.testing.assert_allclose(ours, want, rtol=2e-5, atol=1e-5)

    def drawn(seed):
        return net.apply(
            variables, query, memory, train=True, rngs={"dropout": jax.random.key(seed)}
        ).output

    np.testing.assert_array_equal(drawn(0), drawn(0))
    assert not np.allclose(drawn(0), drawn(1))


def test_weights_are_a_distribution_and_names_go_both_ways():
    for share, keys in ((True, {"w_qkvs"}), (False, {"w_qs", "w_ks", "w_vs"})):
        net, variables, query, memory = case(share)
        weights = net.apply(variables, query, memory).weights
        assert weights.shape == (B, HEADS, N, M)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
        table = NameTable(attention_rules("module."))
        torch = table.to_torch(jax.tree.map(np.asarray, variables))
        assert {f"module.{name}.weight" for name in (*keys, "fc", "layer_norm")} < torch.keys()
        back = table.to_ours(torch)
        jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_shapes_that_do_not_fit():
    net, variables, query, memory = case(share=True)
    with pytest.raises(ValueError, match=r"query \[B, N, D\]"):
        net.apply(variables, query, memory[..., :4])
