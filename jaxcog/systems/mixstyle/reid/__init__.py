"""Person re-identification with MixStyle: embedding networks for training on one camera network
and searching in another."""

from jaxcog.systems.mixstyle.reid.model import NETWORKS, Embedding, ReIDNetwork

__all__ = ["NETWORKS", "Embedding", "ReIDNetwork"]
