"""MixStyle as a layer for any network: its settings, and what they do between two stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.systems.mixstyle import ops


@dataclasses.dataclass(frozen=True)
class MixStyle:
    """The layer, without parameters: it acts in training only and is the identity otherwise.

    p: chance that it acts on a batch, drawn anew at every insertion point; 0 turns it off.
    alpha: the weights of mixing come from Beta(alpha, alpha).
    mix: "random" partners, or partners from another domain ("crossdomain"; by the labels of the
      domains where they are given, else between the two halves of the batch).
    after: stages behind which it stands; several early ones, and never the last one.
    even_last: allow the last one all the same, for the paper's ablation.
    kind: mix "moments" (MixStyle), or the whole "distribution" of values (EFDMix, CVPR 2022).
    eps, ddof: of the deviation, see `ops.instance_statistics`.
    """

    p: float = 0.5
    alpha: float = 0.1
    mix: ops.Mix = "random"
    after: tuple[str, ...] = ("layer1", "layer2", "layer3")
    eps: float = 1e-6
    ddof: int = 1
    even_last: bool = False
    kind: ops.Kind = "moments"

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ConfigError(f"mixstyle.p={self.p}: a probability, between 0 and 1")
        if not self.alpha > 0:
            raise ConfigError(f"mixstyle.alpha={self.alpha}: must be positive (the paper: 0.1)")
        if self.mix not in ("random", "crossdomain"):
            raise ConfigError(f'mixstyle.mix="{self.mix}": "random" or "crossdomain"')
        if not self.eps > 0:
            raise ConfigError(f"mixstyle.eps={self.eps}: must be positive")
        if self.ddof not in (0, 1):
            raise ConfigError(f"mixstyle.ddof={self.ddof}: 1 (unbiased variance) or 0")
        if self.kind not in ("moments", "distribution"):
            raise ConfigError(f'mixstyle.kind="{self.kind}": "moments" or "distribution"')
        if len(set(self.after)) != len(self.after):
            raise ConfigError(f"mixstyle.after={self.after}: a stage is named twice")

    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
        draw: ops.MixDraw | None = None,
        domains: jax.Array | None = None,
        axis_name: ops.AxisName | None = None,
        scope: ops.Scope = "global",
    ) -> jax.Array:
        """x [B, ..., C] with mixed styles while training, and `x` itself otherwise.

        Args:
          x: features behind one stage.
          key, draw: give one: a key (the same on all devices) or what was drawn.
          domains: [B] int, the domain of each row, for "crossdomain".
          axis_name, scope: see `ops.mixstyle`; with "local", devices draw independently.

        Raises:
          ValueError: training with neither or both of `key` and `draw`.
        """
        if not train or self.p == 0:
            return x
        if key is not None and draw is None:
            draw = self._draw_on_device(key, x.shape[0], domains, axis_name, scope)
        elif key is not None or draw is None:
            raise ValueError("MixStyle: give a key or a draw while training, and not both")
        return ops.apply_draw(x, draw, axis_name=axis_name, scope=scope, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """What `ops.apply_draw` and the networks take of these settings, beside draws."""
        return {"eps": self.eps, "ddof": self.ddof, "kind": self.kind}

    def _draw_on_device(
        self,
        key: jax.Array,
        rows: int,
        domains: jax.Array | None,
        axis_name: ops.AxisName | None,
        scope: ops.Scope,
    ) -> ops.MixDraw:
        if axis_name is not None and scope == "local":
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        elif axis_name is not None:
            rows *= jax.lax.axis_size(axis_name)
            if domains is not None:
                domains = jax.lax.all_gather(domains, axis_name, tiled=True)
        return self.draw(key, rows, domains)

    def draw(self, key: jax.Array, batch: int, domains: jax.Array | None = None) -> ops.MixDraw:
        """The draw of one insertion point for a whole batch; `domains` [batch] int, if known."""
        return ops.sample_mixstyle(
            key, batch, p=self.p, alpha=self.alpha, mix=self.mix, domains=domains
        )

    def draws(
        self, key: jax.Array, batch: int, domains: jax.Array | None = None
    ) -> dict[str, ops.MixDraw]:
        """Independent draws of all insertion points for one step, by stage; {} if p is 0."""
        if self.p == 0 or not self.after:
            return {}
        # One sampler for all points: the Beta distribution is a loop, slow to compile many times.
        keys = jnp.stack([rng.stream(key, stage) for stage in self.after])
        drawn = jax.vmap(lambda key: self.draw(key, batch, domains))(keys)
        return {
            stage: jax.tree.map(lambda values, i=i: values[i], drawn)
            for i, stage in enumerate(self.after)
        }

    def check_stages(self, stages: Iterable[str]) -> None:
        """Raises ConfigError unless all insertion points are stages, and none is the last one."""
        stages = tuple(stages)
        unknown = [stage for stage in self.after if stage not in stages]
        if unknown:
            raise ConfigError(
                f"mixstyle.after={self.after}: this network has no {', '.join(unknown)}; "
                f"choose from {', '.join(stages[:-1])}"
            )
        if stages[-1] in self.after and not self.even_last:
            raise ConfigError(
                f"mixstyle.after={self.after}: {stages[-1]} is the last stage, whose statistics "
                "carry the class; mixing them costs accuracy (the paper: PACS 82.8 -> 75.6). "
                f"Choose from {', '.join(stages[:-1])}, or set mixstyle.even_last for the ablation"
            )
