"""Long-RVOS, test."""

from eval.packagers.png_folders import PngFolders
from eval.packagers.registry import register_packager


@register_packager("long_rvos")
class LongRvos(PngFolders):
    """The folder that the data set's own scorer reads. No test server was announced when this was written, so what
    one may want could not be verified."""

    about = "<clip>/<expression id>/<frame>.png, as the data set's scorer reads it; a server's format is not verified"
