"""Packagers by name: benchmarks say ``submission: <name>``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.registry import Registry

if TYPE_CHECKING:
    from eval.packagers.base import Packager

_PACKAGERS: Registry[Packager] = Registry("packager", "eval.packagers")
register_packager, packager_names, get_packager = _PACKAGERS.register, _PACKAGERS.names, _PACKAGERS.get
