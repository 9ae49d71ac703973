"""OrthoHash: deep hashing with one cosine margin loss to orthogonal binary targets (NeurIPS 2021).

Pure functions and networks for use without the rest of the library; see README.md.
"""

from jaxcog.systems.orthohash.codebooks import (
    bernoulli_codebook,
    hadamard_codebook,
    make_codebook,
    max_hamming_codebook,
)
from jaxcog.systems.orthohash.index import HammingIndex
from jaxcog.systems.orthohash.losses import (
    bit_balance,
    bit_correlation,
    codebook_similarity,
    cosine_logits,
    orthohash_loss,
    quantization_error,
    sharded_orthohash_loss,
)
from jaxcog.systems.orthohash.model import (
    AlexNetHash,
    Architecture,
    HashHead,
    MLPHash,
    ResNetHash,
    encode,
    init,
    recalibrate_hash_bn,
)
from jaxcog.systems.orthohash.retrieval import (
    binarize,
    gallery_average_precision,
    hamming_distance,
    mean_average_precision,
    pack_bits,
    unpack_bits,
)
from jaxcog.systems.orthohash.search import hamming_topk, sharded_hamming_topk

__all__ = [
    "AlexNetHash",
    "Architecture",
    "HammingIndex",
    "HashHead",
    "MLPHash",
    "ResNetHash",
    "bernoulli_codebook",
    "binarize",
    "bit_balance",
    "bit_correlation",
    "codebook_similarity",
    "cosine_logits",
    "encode",
    "gallery_average_precision",
    "hadamard_codebook",
    "hamming_distance",
    "hamming_topk",
    "init",
    "make_codebook",
    "max_hamming_codebook",
    "mean_average_precision",
    "orthohash_loss",
    "pack_bits",
    "quantization_error",
    "recalibrate_hash_bn",
    "sharded_hamming_topk",
    "sharded_orthohash_loss",
    "unpack_bits",
]
