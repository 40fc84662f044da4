"""The interpreter-start hook; everything else about packaging is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = Path("videoseg_shims") / "videoseg_shims.pth"


class BuildPyWithPth(build_py):
    """Put the ``.pth`` beside the packages: it only works in site-packages itself.

    An editable wheel does not take files from ``build_lib``, so there the file goes into the wheel's root
    (``install_lib``) directly.
    """

    def run(self) -> None:
        super().run()
        root = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        Path(root).mkdir(parents=True, exist_ok=True)
        self.copy_file(str(PTH), str(Path(root) / PTH.name), preserve_mode=False)


setup(cmdclass={"build_py": BuildPyWithPth})
