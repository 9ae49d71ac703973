"""What the paper claims, as `jaxcog reproduce qat` checks it on generated videos."""

from __future__ import annotations

from jaxcog.claim import AtLeast, AtMost, Claim, Margin, Ratio

_QAT, _OFF, _OTHER = "adapted to the query", "prototype alone", "adapted to another video"

CLAIMS = (
    Claim(
        title="A prototype adapted to the query video finds what one from other videos misses",
        config="qat/events",
        variants={
            _OFF: {"task.adapt": "off"},
            _OTHER: {"task.adapt": "other_query"},
            _QAT: {},
        },
        metrics=("frame_ap", "mAP@0.5", "mAP", "whole_video/mAP@0.5", "two_boxes/mAP@0.5"),
        seeds=5,
        requirements=(
            AtLeast(_QAT, "frame_ap", 0.78),
            Margin(_QAT, _OFF, "frame_ap", 0.20),
            Margin(_OFF, _OTHER, "frame_ap", -0.10),
            Ratio(_QAT, _OFF, "mAP@0.5", 1.5),
            AtMost(_QAT, "whole_video/mAP@0.5", 0.02),
        ),
        note=(
            "1-shot, on classes that training never saw. The last two columns are boxes that do "
            "not look at the video: on these short events they find nothing."
        ),
    ),
)
