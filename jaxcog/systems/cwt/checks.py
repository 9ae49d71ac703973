"""What stage 2 demands of its data and of the stage 1 it starts from."""

from __future__ import annotations

from jaxcog.errors import CheckpointError, ConfigError
from jaxcog.task import DataInfo


def check_episodes(data: DataInfo) -> None:
    """Raises ConfigError unless the examples are episodes."""
    wanted = {"support", "support_mask", "query", "query_mask", "class"}
    if not wanted <= set(data.element):
        raise ConfigError(
            f"stage 2 of cwt learns from episodes ({', '.join(sorted(wanted))}); the data has "
            f"{', '.join(sorted(data.element))}: choose data of episodes"
        )


def check_origin(data: DataInfo, origin: DataInfo | None, pretrained: bool) -> None:
    """Raises ConfigError and CheckpointError unless stage 1 saw all base classes and no novel one.

    origin: the data of stage 1; None: there is no stage 1, an error where `pretrained`.
    """
    if origin is None:
        if pretrained:
            raise ConfigError(
                "stage 2 of cwt adapts the classifier of a trained encoder, and there is none: set "
                "--train.start-from to the workdir of a stage 1 of the same fold (trained, or "
                "imported with `jaxcog import-torch`)"
            )
        return
    names = data.facts["classes"]
    seen = set(origin.class_names)
    leaked = [name for name in names["novel"] if name in seen]
    if leaked:
        raise CheckpointError(
            f"train.start_from was trained on {', '.join(leaked)}, which are novel classes here: "
            "it belongs to another fold; start from the stage 1 of this one, or set --data.fold"
        )
    missing = [name for name in names["base"] if name not in seen]
    if missing:
        raise CheckpointError(
            f"train.start_from never saw the base classes {', '.join(missing[:5])}: it belongs to "
            "another fold or dataset; start from a stage 1 of this one"
        )
