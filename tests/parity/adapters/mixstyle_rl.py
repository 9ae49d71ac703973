"""MixStyle's reinforcement learning: the layer, the policy network, advantages, PPO's updates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcog.systems.mixstyle import ops
from jaxcog.systems.mixstyle.rl import ppo
from jaxcog.systems.mixstyle.rl.objective import Weights, objective
from jaxcog.systems.mixstyle.rl.policy import Policy
from jaxcog.systems.mixstyle.rl.tensorflow_names import NAMES
from tests.parity.adapters import adapter
from tests.parity.golden import Golden

_RENAMED = {"entropy": "policy_entropy", "information": "info_loss_cv"}


@adapter("mixstyle", r"rl_gae.*")
def gae(golden: Golden) -> None:
    ctor, values = golden.meta["ctor"], jnp.asarray(golden["in/values"])
    dones = jnp.asarray(golden["in/dones_after"])
    rewards = jnp.asarray(golden["in/rewards"])
    advantages = jax.jit(ppo.gae)(rewards, dones, values, ctor["gamma"], ctor["lam"])
    before = np.concatenate([np.zeros_like(dones[:1]), dones[:-1]])

    def by_environment(x: Any) -> np.ndarray:
        return np.asarray(x).swapaxes(0, 1).reshape(-1)

    golden.check("out/returns", by_environment(advantages + values[:-1]))
    golden.check("out/values_flat", by_environment(values[:-1]))
    golden.check("out/masks_flat", by_environment(before))


@adapter("mixstyle", r"rl_mixstyle_layer.*")
def layer(golden: Golden) -> None:
    lam, perm = jnp.asarray(golden["in/lmda"]), jnp.asarray(golden["in/perm"])
    eps = golden.meta["ctor"]["eps"]
    x = jnp.asarray(golden["in/x"])
    y, back = jax.vjp(lambda x: ops.mixstyle(x, lam, perm, eps=eps, ddof=0), x)
    golden.check("out/y", y)
    golden.check("grad/x", back(jnp.asarray(golden["in/gy"]))[0])


def policy_of(golden: Golden) -> tuple[Policy, Any]:
    """The network that a file describes, and its parameters."""
    ctor, shapes = golden.meta["ctor"], golden.meta["shapes"]
    units, noisy = shapes["model/pi/w"][0], ctor["beta"] >= 0
    depths = tuple(shapes[f"model/conv2d{k}/bias"][0] for k in ("", "_5", "_10"))
    samples = ctor["nr_samples"] if noisy else None
    policy = Policy(shapes["model/pi/w"][1], depths, units, samples)
    return policy, jax.tree.map(jnp.asarray, NAMES.to_ours(golden.weights())["params"])


def draws_of(golden: Golden) -> dict[str, Any]:
    """Arguments of `Policy.apply` that hold what was drawn."""
    if not golden.meta["ctor"]["mixstyle"]:
        draws = {}
    else:
        draws = {
            f"sequence{i + 1}": ops.MixDraw(
                jnp.asarray(True),
                jnp.asarray(golden[f"in/lmda_{i}"]),
                jnp.asarray(golden[f"in/perm_{i}"]),
            )
            for i in range(len(golden.names("in/perm_*")))
        }
    noise = jnp.asarray(golden["in/noise"]) if "in/noise" in golden else None
    return {"draws": draws, "noise": noise}


@adapter("mixstyle", r"rl_policy.*")
def policy(golden: Golden) -> None:
    network, params = policy_of(golden)
    out = jax.jit(network.apply)(params, jnp.asarray(golden["in/obs"]), **draws_of(golden))
    actions = jnp.asarray(golden["in/actions"])
    run = ppo.negative_log_probability(out.logits, actions)
    results = {"vf_train": out.value, "vf_run": out.value, "logits_run": out.logits}
    results |= {"neglogp_run": run, "neglogp_train": run, "bottleneck": out.bottleneck}
    results["entropy_train"] = ppo.entropy(out.logits)
    if out.noisy_logits is not None:
        noisy = out.noisy_logits
        results["neglogp_train"] = ppo.mixture_negative_log_probability(noisy, actions)
        results["bottleneck"] = out.samples.reshape(-1, out.samples.shape[-1])
        results["component_logits_train"] = noisy
        results["entropy_train_components"] = ppo.entropy(noisy)
        results["info_loss"] = jnp.mean(out.information)
    for name in golden.under("out/"):
        golden.check(f"out/{name}", results[name])


@adapter("mixstyle", r"rl_ppo.*")
def updates(golden: Golden) -> None:
    network, params = policy_of(golden)
    ctor, drawn = golden.meta["ctor"], draws_of(golden)
    weights = Weights(ctor["ent_coef"], ctor["vf_coef"], ctor["l2_weight"], ctor["beta"])
    tx = optax.chain(
        optax.clip_by_global_norm(ctor["max_grad_norm"]),
        ppo.tensorflow_adam(eps=ctor["adam_eps"]),
        optax.scale(ctor["lr"]),
    )

    def loss(params: Any, batch: dict[str, jax.Array]) -> Any:
        out = network.apply(params, batch["obs"], **drawn)
        return objective(params, out, batch, ctor["cliprange"], weights)

    @jax.jit
    def update(params: Any, opt: Any, batch: dict[str, jax.Array]) -> Any:
        grads, scalars = jax.grad(loss, has_aux=True)(params, batch)
        changes, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, changes), opt, scalars

    opt, seen = tx.init(params), []
    names = {"obs": "obs", "action": "actions", "return": "returns"}
    names |= {"old_value": "old_values", "old_neglogp": "old_neglogp"}
    for i in range(len(golden["in/obs"])):
        batch = {ours: jnp.asarray(golden[f"in/{theirs}"][i]) for ours, theirs in names.items()}
        params, opt, scalars = update(params, opt, batch)
        seen.append({_RENAMED.get(name, name): value for name, value in scalars.items()})
    for name in golden.under("out/loss/"):
        golden.check(f"out/loss/{name}", [scalars[name] for scalars in seen])
    tensors = NAMES.to_torch({"params": params})
    golden.check_norms("out/param_norms_after", tensors, "param_order")
    for name in golden.under("out/after/"):
        golden.check(f"out/after/{name}", tensors[name])
