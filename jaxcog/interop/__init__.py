"""Checkpoints of other frameworks: reading them, translating their names, filling our variables."""

from __future__ import annotations

from jaxcog.interop.importer import import_checkpoint
from jaxcog.interop.names import NameTable, Report
from jaxcog.interop.read import read_checkpoint, read_object

__all__ = ["NameTable", "Report", "import_checkpoint", "read_checkpoint", "read_object"]
