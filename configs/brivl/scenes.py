"""BriVL without any training: scenes from above (UCM, AID) recognised by their Chinese names.

Train:  jaxcog train brivl/scenes --workdir DIR --train.start-from IMPORTED
        (0 steps: it evaluates what it starts from; AID: --data.root DIR --data.names ...)
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.web_pairs import NamedScenes
from jaxcog.data.toy.weak_pairs import WeakDigits
from jaxcog.systems.brivl.presets import preset, tiny_pretraining
from jaxcog.systems.brivl.task import Pretrain

NEEDS = "UC Merced land use, a folder a class; a Chinese vocab.txt; a pre-trained run"

UCM = (
    ("agricultural", "农田"),
    ("airplane", "飞机"),
    ("baseballdiamond", "棒球场"),
    ("beach", "海滩"),
    ("buildings", "建筑物"),
    ("chaparral", "灌木丛"),
    ("denseresidential", "密集住宅区"),
    ("forest", "森林"),
    ("freeway", "高速公路"),
    ("golfcourse", "高尔夫球场"),
    ("harbor", "港口"),
    ("intersection", "十字路口"),
    ("mediumresidential", "中等密度住宅区"),
    ("mobilehomepark", "活动房屋区"),
    ("overpass", "立交桥"),
    ("parkinglot", "停车场"),
    ("river", "河流"),
    ("runway", "跑道"),
    ("sparseresidential", "稀疏住宅区"),
    ("storagetanks", "储油罐"),
    ("tenniscourt", "网球场"),
)


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=Pretrain(model=preset("base"), contrast="in_batch"),
        data=NamedScenes(size=456, names=UCM),
        train=Train(
            duration="0 steps",
            batch_size=256,
            dtype="bfloat16",
            keep_best=False,
            start_fresh=("^params/logit/",),
        ),
    )


def tiny() -> Experiment:
    return Experiment(
        system="brivl",
        task=tiny_pretraining(),
        data=WeakDigits(),
        train=Train(duration="4 steps", batch_size=8, checkpoint_every="2 steps"),
    )
