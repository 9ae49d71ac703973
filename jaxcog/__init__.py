"""Perception, retrieval, imagination and few-shot adaptation in JAX: ten papers as one library.

`import jaxcog` loads nothing heavy. What a researcher imports lives in `jaxcog.systems.<name>`.
"""

__version__ = "0.1.0"
