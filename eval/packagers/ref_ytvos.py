"""Refer-YouTube-VOS, valid."""

from eval.packagers.png_folders import PngFolders
from eval.packagers.registry import register_packager


@register_packager("ref_ytvos")
class RefYtvos(PngFolders):
    """As published methods hand it in; only clips of valid that are not of test are expected."""

    prefix = "Annotations/"
    about = "zip of Annotations/<clip>/<expression id>/<frame>.png (instructions of ReferFormer and others)"
