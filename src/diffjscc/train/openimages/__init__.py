# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's training set: Open Images, filtered, resized and packed into WebDataset shards.

    list (CSV) ─► shuffled candidates ─► download ─► verify, rotate, resize, encode ─► shards (.tar)
     lists.py         lists.py         download.py           convert.py               shards.py

`prepare` runs all of it. It can be killed at any moment: started again with the same options it goes on after the last
finished shard, and the files are the same, byte for byte, as those of an uninterrupted run.
"""

from .options import Options
from .prepare import Progress, Summary, prepare

__all__ = ["Options", "Progress", "Summary", "prepare"]
