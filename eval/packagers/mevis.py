"""MeViS, valid and test."""

from eval.packagers.png_folders import PngFolders
from eval.packagers.registry import register_packager


@register_packager("mevis")
class Mevis(PngFolders):
    """As the data set's README describes it: the zip holds the clips' folders directly, with none around them."""

    about = "zip of <clip>/<expression id>/<frame>.png, the clips' folders directly in it (README of MeViS)"
