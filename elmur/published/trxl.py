"""Transformer-XL as the released RATE code acts with it."""

from __future__ import annotations

from typing import Any

from elmur.baselines.segment_recurrence import Carried
from elmur.baselines.trxl import TrXL
from elmur.batch import SegmentBatch


class PublishedTrXL(TrXL):
    """A TrXL whose cache, while acting, lacks the last action of each segment, as in the released code.

    So what it caches is not what a window in training caches: this model does not keep step = window from the second
    segment on.
    """

    def close_segment(self, stream: Any, last: SegmentBatch) -> Carried:
        return self.handed_over(stream)[0]
