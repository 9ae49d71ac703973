"""Which records make up each batch, as a function of (seed, step): nothing is stored on resume.

Every class is a `MakeSampler` (see `jaxcog.data.types`) after its keyword arguments are bound with
`functools.partial`: it is called with (number of examples, batch size, seed). The domain samplers
follow the batch composition of MixStyle (ICLR 2021), which mixes across the halves of a batch.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from jaxcog.errors import DataError

_WHOLE_EPOCH_LIMIT = 1 << 20


class Recent:
    """`function(key)` with the last few results kept; safe under threads, empty after pickling."""

    def __init__(self, function: Callable[[Any], Any], size: int = 4):
        self.function = function
        self.size = size
        self.kept: dict[Hashable, Any] = {}

    def __call__(self, key: Hashable) -> Any:
        try:
            return self.kept[key]
        except KeyError:
            pass
        value = self.function(key)
        # A new dict instead of a change in place: other threads may be reading the old one.
        self.kept = dict([*self.kept.items(), (key, value)][-self.size :])
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "size": self.size, "kept": {}}


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])


class Uniform:
    """Without replacement, reshuffled every epoch, the last partial batch dropped.

    limit: examples an epoch has at most; the others have no turn in it.

    Sets of more than a million records are never permuted as a whole: each index then comes from
    grain's `index_shuffle`, which needs no memory.

    Raises DataError where there are fewer examples than one batch.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, limit: int | None = None):
        _require_batch(num_examples if limit is None else min(num_examples, limit), batch_size)
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = min(num_examples, limit or num_examples) // batch_size
        self._epoch = Recent(self._permutation, size=2)

    def _permutation(self, epoch: int) -> np.ndarray:
        return _generator(self.seed, epoch).permutation(self.num_examples)

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch]: the records of update `step`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        first = place * self.batch_size
        if self.num_examples <= _WHOLE_EPOCH_LIMIT:
            return self._epoch(epoch)[first : first + self.batch_size]
        from grain.experimental import index_shuffle

        seed = int(_generator(self.seed, epoch).integers(1 << 32))
        last = self.num_examples - 1
        places = range(first, first + self.batch_size)
        return np.array([index_shuffle(i, last, seed, 4) for i in places], np.int64)


class Sequential:
    """In order, again and again; the last partial batch of each pass is dropped."""

    def __init__(self, num_examples: int, batch_size: int, seed: int = 0):
        _require_batch(num_examples, batch_size)
        self.batch_size = batch_size
        self.steps_per_epoch = num_examples // batch_size

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch]: the records of update `step`."""
        first = step % self.steps_per_epoch * self.batch_size
        return np.arange(first, first + self.batch_size)


class _Grouped(abc.ABC):
    """Base of the samplers that draw from groups: records by domain, camera or identity.

    A subclass plans whole epochs, `_plan(epoch) -> int64 [steps, batch]`; their lengths may differ,
    so the epoch of a step is found by adding up the lengths of those before it.
    """

    def __init__(self, num_examples: int, seed: int, labels: np.ndarray):
        labels = np.asarray(labels)
        if labels.shape != (num_examples,):
            raise ValueError(f"labels of shape {labels.shape} for {num_examples} examples")
        self.seed = seed
        self.labels = labels
        order = np.argsort(labels, kind="stable")
        starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order][:1] - 1))
        self.groups = np.split(order, starts[1:]) if len(order) else []
        self.group_names = [int(labels[group[0]]) for group in self.groups]
        self._epoch = Recent(self._plan, size=2)
        self._ends = [0]

    @abc.abstractmethod
    def _plan(self, epoch: int) -> np.ndarray:
        """The records of an epoch, a row a step."""

    @property
    def steps_per_epoch(self) -> int:
        """Length of the first epoch; the following ones may be a few steps shorter or longer."""
        return self._epoch_ends(0)[1]

    def _epoch_ends(self, step: int) -> list[int]:
        ends = self._ends
        while ends[-1] <= step:
            ends = [*ends, ends[-1] + len(self._epoch(len(ends) - 1))]
        if len(ends) > len(self._ends):
            self._ends = ends
        return ends

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch]: the records of update `step`."""
        ends = self._epoch_ends(step)
        epoch = int(np.searchsorted(ends, step, side="right")) - 1
        return self._epoch(epoch)[step - ends[epoch]]

    def substitutes(self, index: int) -> np.ndarray:
        """Records of the same group: what may stand in for record `index` if it is undecodable."""
        return np.flatnonzero(self.labels == self.labels[index])


class RandomDomain(_Grouped):
    """Each batch: `per_batch` distinct domains drawn at random, an equal number of each, in blocks.

    Without replacement inside an epoch, which ends after the batch that leaves a drawn domain with
    fewer unused images than a batch takes. `domains`: int [examples].

    Raises DataError where a domain has too few examples or the batch does not divide evenly.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        seed: int,
        *,
        domains: np.ndarray,
        per_batch: int = 2,
    ):
        super().__init__(num_examples, seed, domains)
        self.per_batch = per_batch
        self.each = _share(batch_size, per_batch, self)
        if per_batch > len(self.groups):
            raise DataError(
                f"domain sampler: {per_batch} domains a batch, but the data has "
                f"{len(self.groups)}; lower the number of domains in a batch or add source domains"
            )

    def _plan(self, epoch: int) -> np.ndarray:
        random = _generator(self.seed, epoch)
        shuffled = [random.permutation(group) for group in self.groups]
        used = [0] * len(shuffled)
        batches = []
        while True:
            drawn = random.permutation(len(shuffled))[: self.per_batch]
            batches.append(
                np.concatenate([shuffled[d][used[d] : used[d] + self.each] for d in drawn])
            )
            for d in drawn:
                used[d] += self.each
            if any(len(shuffled[d]) - used[d] < self.each for d in drawn):
                return np.stack(batches)


class SeqDomain(_Grouped):
    """Each batch: an equal number of images of domain 0, then 1, and so on.

    The epoch ends when any domain cannot fill another batch. `domains`: int [examples].

    Raises DataError where a domain has too few examples or the batch does not divide evenly.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, *, domains: np.ndarray):
        super().__init__(num_examples, seed, domains)
        self.each = _share(batch_size, len(self.groups), self)

    def _plan(self, epoch: int) -> np.ndarray:
        random = _generator(self.seed, epoch)
        steps = min(len(group) for group in self.groups) // self.each
        blocks = [
            random.permutation(group)[: steps * self.each].reshape(steps, self.each)
            for group in self.groups
        ]
        return np.concatenate(blocks, axis=1)


class _Identities(_Grouped):
    """Batches of P identities with K examples each."""

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        seed: int,
        *,
        identities: np.ndarray,
        per_identity: int = 4,
    ):
        super().__init__(num_examples, seed, identities)
        if batch_size % per_identity:
            raise DataError(
                f"batch size {batch_size} is no multiple of {per_identity} examples an identity; "
                "change one of the two"
            )
        self.each = per_identity
        self.per_batch = batch_size // per_identity
        if len(self.groups) < self.per_batch:
            raise DataError(
                f"batch of {self.per_batch} identities x {per_identity} examples, but the data has "
                f"{len(self.groups)} identities; lower train.batch_size"
            )


class PK(_Identities):
    """Each batch: P identities with K images each, in blocks of K (for triplet losses).

    Inside an epoch the images of an identity are cut into groups of K; identities with fewer than K
    images repeat some. The epoch ends when fewer than P identities have a group left.
    `identities`: int [examples]; P is batch size / `per_identity`.

    Raises DataError where there are fewer than P identities or the batch does not divide evenly.
    """

    def _plan(self, epoch: int) -> np.ndarray:
        random = _generator(self.seed, epoch)
        waiting = []
        for group in self.groups:
            if len(group) < self.each:
                images = random.choice(group, self.each)
            else:
                images = random.permutation(group)
            whole = len(images) // self.each * self.each
            waiting.append(list(images[:whole].reshape(-1, self.each)))
        available = np.arange(len(waiting))
        batches = []
        while len(available) >= self.per_batch:
            drawn = random.choice(available, self.per_batch, replace=False)
            batches.append(np.concatenate([waiting[i].pop() for i in drawn]))
            available = np.array([i for i in available if waiting[i]], np.int64)
        return np.stack(batches)


class IdentityChunks(_Identities):
    """Each batch: P identities with K records each, as TextReID (BMVC 2021) composes it.

    Per epoch all records are shuffled and each identity's are cut into chunks of K in that order;
    what does not fill a chunk is left out. An identity with fewer than K has one chunk, of its
    records repeated one by one (a, a, b, b). Batches take one chunk of P identities drawn among
    those that have one left, until there are fewer than P of these; then batches are put in the
    shuffled order of their first records. `identities`: int [examples]; P is batch size / K.

    balanced: repeat in turn (a, b, c, a), and fill the last chunk up instead of leaving it out.

    Raises DataError where there are fewer than P identities or the batch does not divide evenly.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        seed: int,
        *,
        identities: np.ndarray,
        per_identity: int = 4,
        balanced: bool = False,
    ):
        super().__init__(
            num_examples, batch_size, seed, identities=identities, per_identity=per_identity
        )
        self.balanced = balanced

    def _plan(self, epoch: int) -> np.ndarray:
        random = _generator(self.seed, epoch)
        order = random.permutation(len(self.labels))
        drawn = self.drawn(order, lambda left: random.choice(left, self.per_batch, replace=False))
        return self.in_order(drawn, order)

    def drawn(self, order: np.ndarray, pick: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The batches of an epoch as they are drawn: int64 [steps, batch].

        order: a permutation of the records. pick: chooses P of the places in `groups` it is given.
        """
        position = np.argsort(order)
        waiting = [self._chunks(group[np.argsort(position[group])]) for group in self.groups]
        left = np.array([len(chunks) for chunks in waiting])
        batches = []
        while np.count_nonzero(left) >= self.per_batch:
            picked = pick(np.flatnonzero(left))
            batches.append(np.concatenate([waiting[i][len(waiting[i]) - left[i]] for i in picked]))
            left[picked] -= 1
        return np.stack(batches)

    def in_order(self, batches: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Batches by the place of their first record in the permutation `order`."""
        return batches[np.argsort(np.argsort(order)[batches[:, 0]], kind="stable")]

    def _chunks(self, records: np.ndarray) -> np.ndarray:
        size = len(records)
        if size < self.each:
            if self.balanced:
                return np.resize(records, (1, self.each))
            return np.repeat(records, -(-self.each // size))[None, : self.each]
        if self.balanced:
            records = np.resize(records, -(-size // self.each) * self.each)
        return records[: len(records) // self.each * self.each].reshape(-1, self.each)


def _require_batch(num_examples: int, batch_size: int) -> None:
    if num_examples == 0:
        raise DataError("the dataset is empty: prepare it again, or point data.root elsewhere")
    if num_examples < batch_size:
        raise DataError(
            f"{num_examples} examples do not fill one batch of {batch_size}: "
            "lower train.batch_size or add data"
        )


def _share(batch_size: int, parts: int, sampler: _Grouped) -> int:
    _require_batch(len(sampler.labels), batch_size)
    if parts < 1 or batch_size % parts:
        raise DataError(
            f"batch size {batch_size} cannot be split evenly over {parts} domains: "
            f"use a multiple of {parts}, such as {math.ceil(batch_size / max(parts, 1)) * parts}"
        )
    each = batch_size // parts
    for name, group in zip(sampler.group_names, sampler.groups, strict=True):
        if len(group) < each:
            raise DataError(
                f"domain {name} has {len(group)} examples, a batch takes {each} of it: "
                "lower train.batch_size or leave the domain out"
            )
    return each
