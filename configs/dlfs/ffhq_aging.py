"""DLFS on FFHQ-Aging: one face at six ages, one model for each gender (ICCV 2021).

Train:  jaxcog train dlfs/ffhq_aging --workdir DIR --data.gender females
Data:   jaxcog prepare ffhq_aging --raw DIR

Plan:   jaxcog plan dlfs/ffhq_aging --topology v5e:2x2

Four pairs a chip of a v5e:2x2: eight images, which its convolutions need, in less than half of its
memory, so nothing is computed again (--task.remat for larger batches a chip: the room's page).
"""

from jaxcog import experiments
from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.faces import FFHQAging
from jaxcog.systems.dlfs.steps import Objective
from jaxcog.systems.dlfs.task import Synthesis

NEEDS = "FFHQ-Aging with face parsings (jaxcog prepare ffhq_aging)"
DEFAULT = True
SLICE = "v5e:2x2"


def experiment() -> Experiment:
    return Experiment(
        system="dlfs",
        task=Synthesis(remat=False, objective=Objective(r1_reference_batch=12)),
        data=FFHQAging(gender="males"),
        train=Train(
            duration="400 epochs",
            batch_size=16,  # pairs; the authors had 1 to 6 on one GPU
            eval_batch_size=16,
            evaluate_every="20 epochs",
            checkpoint_every="1 epoch",
            dtype="bfloat16",
        ),
    )


def tiny() -> Experiment:
    return experiments.load("dlfs/digits").experiment(tiny=True)
