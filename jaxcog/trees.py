"""Pytrees as paths and as nested dicts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Tree = Any


def path_name(path: Any) -> str:
    """A key path as text: "params/layer1_0/conv1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_path(tree: Tree) -> dict[str, Any]:
    """Path -> leaf: {"params/head/kernel": ...}."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nested(tree: Tree) -> dict[str, Any]:
    """Any pytree as nested dicts named by its key paths; empty containers are left out."""
    result: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *parents, last = _names(path)
        node = result
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return result


def like(tree: Tree, leaves: Mapping[str, Any]) -> Tree:
    """The leaves of nested dicts in the structure of `tree`: the inverse of `nested`."""

    def leaf(path: Any, _: Any) -> Any:
        node: Any = leaves
        for name in _names(path):
            node = node[name]
        return node

    return jax.tree_util.tree_map_with_path(leaf, tree)


def without_placeholders(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` less the leaves that are `...`, and less the dicts that this leaves empty."""
    result = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            value = without_placeholders(value)
            if not value:
                continue
        if value is not ...:
            result[name] = value
    return result


def fingerprint(tree: Tree) -> str:
    """What tells these arrays from others, by names and values: 16 hex digits."""
    digest = hashlib.sha256()
    for name, leaf in by_path(tree).items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _names(path: Any) -> list[str]:
    return [jax.tree_util.keystr((entry,), simple=True) for entry in path]
