"""Official checkpoint keys and where they lie here.

Sources: BrandonHanx/TextReID (both heads), openai/CLIP (its ResNets; the image tower alone),
torchvision's ImageNet ResNets. The MoCo head holds the query encoders under two names.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import numpy as np

from jaxcog.interop.names import (
    Ignore,
    Layout,
    NameTable,
    Rename,
    Rule,
    linear,
)
from jaxcog.nn.clip_names import bigru_rules, clip_resnet_rules, clip_text_rules
from jaxcog.nn.resnet_names import resnet_rules


def below(root: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The same rules with all our paths below the entry `root` of the State."""
    return tuple(
        dataclasses.replace(rule, ours=tuple(f"{root}/{path}" for path in rule.targets))
        if isinstance(rule, Rename)
        else rule
        for rule in rules
    )


def visual_rules(torch: str, clip: bool) -> tuple[Rule, ...]:
    """One image encoder below the key prefix `torch`."""
    if clip:
        return clip_resnet_rules(torch, "visual/")
    return resnet_rules(torch, "visual/")


def textual_rules(torch: str) -> tuple[Rule, ...]:
    """One sentence encoder below the key prefix `torch`, of given or learned words."""
    return (
        Rename(re.escape(torch) + r"embed\.weight", "params/textual/embed/embedding"),
        *bigru_rules(torch + "gru.", "textual/gru/"),
    )


def projected_rules(torch: str) -> tuple[Rule, ...]:
    """As `textual_rules`, where given word vectors are brought to another width."""
    return (
        *linear(re.escape(torch) + "embed", "textual/embed"),
        *bigru_rules(torch + "gru.", "textual/gru/"),
    )


Words = Literal["given", "learned", "projected"]
"""What `embed` is in a sentence encoder: nothing, a table, or a linear layer on a given table."""


def official(clip: bool, words: Words, batch: int) -> NameTable:
    """Checkpoints of either head.

    clip: the image encoder is CLIP's, not torchvision's. batch: of the run, a slot of the queue.
    """
    textual = projected_rules if words == "projected" else textual_rules
    head = r"embed_model\."
    rules: list[Rule] = []
    for visual in ("visual_model.", "embed_model.v_encoder_q."):
        rules += visual_rules(visual, clip)
    for name in ("textual_model.", "embed_model.t_encoder_q."):
        rules += textual(name)
    rules += below("keys", visual_rules("embed_model.v_encoder_k.", clip))
    rules += below("keys", textual("embed_model.t_encoder_k."))
    for modality, letter in (("visual", "v"), ("textual", "t")):
        rules += linear(rf"{head}{letter}_embed_layer", f"head/{modality}")
        rules += linear(rf"{head}{modality}_embed_layer", f"head/{modality}")
        rules += linear(rf"{head}{letter}_fc_q\.(0|2)", rf"head/{modality}_fc_\1")
        fc = linear(rf"{head}{letter}_fc_k\.(0|2)", rf"head/{modality}_fc_\1")
        rules += below("keys", fc)
    return NameTable(
        (
            *rules,
            Rename(head + r"loss_evaluator\.projection", "params/head/projection"),
            *queue_rules(head, batch),
        )
    )


def queue_rules(head: str, batch: int) -> tuple[Rule, ...]:
    """The official ring [D, K], and ours of slots [K / batch, batch, D]."""
    columns = Layout(
        lambda x: x.T.reshape(-1, batch, len(x)), lambda x: x.reshape(-1, x.shape[-1]).T
    )
    ids = Layout(lambda x: x.reshape(-1, batch), lambda x: x.reshape(1, -1))
    pointer = Layout(lambda x: x[0] // batch, lambda x: np.asarray(x * batch)[None])
    return (
        Rename(head + r"v_queue", "queue/visual", columns),
        Rename(head + r"t_queue", "queue/textual", columns),
        Rename(head + r"id_queue", "queue/ids", ids),
        Rename(head + r"queue_ptr", "queue/slot", pointer),
    )


def clip_tower(grid: tuple[int, int]) -> NameTable:
    """The image tower of an OpenAI CLIP ResNet, its positions resized to `grid`."""
    return NameTable((*clip_resnet_rules("visual.", "visual/", grid), Ignore(r"(?!visual\.).*")))


def clip_towers(grid: tuple[int, int]) -> NameTable:
    """Both towers of an OpenAI CLIP ResNet."""
    return NameTable(
        (
            *clip_resnet_rules("visual.", "visual/", grid),
            *clip_text_rules("", "textual/"),
            Ignore(r"logit_scale|input_resolution|context_length|vocab_size"),
        )
    )


IMAGENET = NameTable((*resnet_rules("", "visual/"), Ignore(r"fc\.(weight|bias)")))
"""torchvision's ResNets."""
