"""OrthoHash on Google Landmarks v2, judged on Revisited Oxford (or Paris): hard mAP.

Train:  jaxcog train orthohash/revisited --workdir DIR  (--data.database rparis6k)
        The same training as orthohash/gldv2, whose runs `jaxcog eval` can judge here too.
Data:   jaxcog prepare gldv2 --raw DIR, and roxford5k or rparis6k
"""

from jaxcog import experiments
from jaxcog.config import Experiment, override

NEEDS = "DELG descriptors of GLDv2 and of Oxford or Paris (jaxcog prepare gldv2, roxford5k)"


def experiment() -> Experiment:
    changes = {
        "task.protocol": "revisited",
        "task.map_at": None,
        # The paper's remedy for the shift between landmarks and buildings.
        "task.recalibrate": True,
        "data.database": "roxford5k",
    }
    return override(experiments.load("orthohash/gldv2").experiment(), changes)


def tiny() -> Experiment:
    changes = {
        "task.protocol": "revisited",
        "task.map_at": None,
        "task.recalibrate": True,
        "data.truth": "revisited",
    }
    return override(experiments.load("orthohash/gldv2").experiment(tiny=True), changes)
