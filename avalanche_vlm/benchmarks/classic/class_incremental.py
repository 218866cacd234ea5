"""Class-incremental benchmarks: the classes of one data set, a few at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from avalanche_vlm.benchmarks.datasets.declaration import PHOTO, wording
from avalanche_vlm.benchmarks.families.class_incremental import ClassIncremental
from avalanche_vlm.benchmarks.registry import BENCHMARKS

_BAD, _GOOD = ("a bad photo of a {}.",), ("a good photo of a {}.",)
_ZSCL = (
    "Zheng, Ma, Wang, Qin, Yue, You: Preventing Zero-Shot Transfer Degradation in Continual Learning of "
    "Vision-Language Models, ICCV 2023"
)
_PROOF = (
    "Zhou, Zhang, Wang, Ning, Ye, Zhan, Liu: Learning without Forgetting for Vision-Language Models (PROOF), TPAMI 2025"
)
_IMAGES = "its images are not those of LAMDA's folders: figures are not PROOF's"


def _lamda(
    name: str,
    what: str,
    prepared: str,
    classes: int,
    *,
    other: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
    increment: int = 10,
    orders: Mapping[str, Sequence[int]] | None = None,
    prompts: Mapping[str, tuple[str, ...]] | None = None,
) -> ClassIncremental:
    """A benchmark of PROOF's (LAMDA), with its ready-made folders or another split of the data set."""
    return ClassIncremental(
        name=name,
        summary=what,
        source="arXiv 2305.19270",
        citation=_PROOF,
        label_space="seen",
        splits={"folders": f"{prepared}-folders", **(other or {})},
        classes=classes,
        increment=increment,
        orders=orders or {},
        prompts=prompts or {},
        split_notes={split: notes for split in other or () if notes},
    )


for _benchmark in (
    ClassIncremental(
        name="cifar100",
        summary="the 100 classes of CIFAR-100, 10, 5 or 2 at a time",
        source="arXiv 2303.06628, 2210.03114",
        citation=_ZSCL,
        label_space="seen",
        splits={"official": "cifar100"},
        classes=100,
        increment=10,
        class_order="continual-clip",
        orders={
            "continual-clip": wording("order of CIFAR-100"),
            "rapf": wording("order of CIFAR-100 of RAPF"),
        },
        prompts={"continual-clip": _BAD, "rapf": _GOOD},
        notes=(
            "10, 20 and 50 steps are increment=10, 5 and 2; B50-10 is base=50; the papers of LAMDA's tools take "
            "class_order=numpy-1993 and prompts=own",
            "RAPF is class_order=rapf and prompts=rapf: its code's order is another than Continual-CLIP's",
        ),
    ),
    ClassIncremental(
        name="tinyimagenet",
        summary="100 classes of TinyImageNet, then the other 100 in 5, 10 or 20 steps",
        source="arXiv 2303.06628",
        citation=_ZSCL,
        label_space="seen",
        splits={"official": "tinyimagenet"},
        classes=200,
        base=100,
        increment=10,
        class_order="zscl",
        orders={"zscl": wording("order of TinyImageNet")},
        prompts={"zscl": _BAD},
    ),
    ClassIncremental(
        name="imagenet100",
        summary="the first 100 synsets of ImageNet, 10 at a time",
        source="arXiv 2210.03114, 2303.06628",
        citation=_ZSCL,
        label_space="seen",
        splits={"official": "imagenet100"},
        classes=100,
        increment=10,
        orders={},
        prompts={"continual-clip": _GOOD},
        notes=(
            "ImageNet-100 is the first 100 synsets in Continual-CLIP, ZSCL and RAPF; other papers draw 100 of 1,000",
        ),
    ),
    ClassIncremental(
        name="imagenet1k",
        summary="the 1,000 classes of ImageNet, 100 at a time",
        source="arXiv 2303.06628",
        citation=_ZSCL,
        label_space="seen",
        splits={"official": "imagenet"},
        classes=1000,
        increment=100,
        orders={},
        prompts={"zscl": _GOOD},
    ),
    ClassIncremental(
        name="imagenet-r",
        summary="the 200 classes of ImageNet-R, 20 at a time",
        source="arXiv 2211.13218",
        citation="Smith, Karlinsky, Gutta, Cascante-Bonilla, Kim, Arbelle, Panda, Feris, Kira: CODA-Prompt, CVPR 2023",
        label_space="seen",
        splits={"coda": "imagenet-r-coda", "rapf": "imagenet-r-rapf", "folders": "imagenet-r-folders"},
        classes=200,
        increment=20,
        class_order="natural",
        orders={"rapf": wording("order of ImageNet-R of RAPF")},
        prompts={"photo": PHOTO, "rapf": _GOOD},
        notes=(
            "the splits of CODA-Prompt, RAPF and LAMDA differ, and test images of one are training images of another: "
            "their figures are not comparable",
        ),
        split_defaults={
            "rapf": {"prompts": "rapf", "class_order": "rapf"},
            "folders": {"prompts": "own", "class_order": "numpy-1993"},
        },
        split_notes={
            "coda": ("CODA-Prompt's seed 0 is class_order=natural, its seed N class_order=python-N",),
        },
    ),
    _lamda("cub200", "the 200 classes of CUB-200, 20 at a time", "cub", 200, other={"official": "cub200"},
           increment=20, orders={"rapf": wording("order of CUB-200 of RAPF")}, prompts={"own": (), "rapf": _GOOD}),
    _lamda("aircraft", "the 100 variants of FGVC-Aircraft, 10 at a time", "aircraft", 100,
           other={"official": "aircraft"}, notes=(_IMAGES,)),
    _lamda("cars", "100 models of Stanford Cars, 10 at a time", "cars", 100, other={"official": "stanford-cars"},
           notes=(_IMAGES, "the first 100 of the 196 classes are taken")),
    _lamda("food101", "100 dishes of Food-101, 10 at a time", "food101", 100, other={"official": "food101"},
           notes=(_IMAGES, "the first 100 of the 101 classes are taken")),
    _lamda("ucf101", "100 actions of UCF101's middle frames, 10 at a time", "ucf101", 100,
           other={"coop": "ucf101-coop"}, notes=(_IMAGES, "the first 100 of the 101 classes are taken")),
    _lamda("sun397", "300 scenes of SUN397, 30 at a time", "sun", 300, other={"seeded": "sun397"},
           notes=(_IMAGES, "the first 300 of the 397 classes are taken"), increment=30),
    _lamda("objectnet", "200 objects of ObjectNet, 20 at a time", "objectnet", 200, increment=20),
):  # fmt: skip
    BENCHMARKS.add(_benchmark.declared())
