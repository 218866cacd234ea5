"""Data sets of one domain each, several of which have the same classes."""

from __future__ import annotations

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, TOGETHER, DataSet, wording
from avalanche_vlm.benchmarks.datasets.facts import about

_LISTS = "avalanche_vlm.benchmarks.sources.path_lists"
_HOME = "OfficeHomeDataset_10072016"
_NI = "core50/batches_filelists/NI_inc/run0"
STYLES = {
    "deviantart": 2163,
    "cartoon": 3726,
    "misc": 5673,
    "embroidery": 722,
    "videogame": 1422,
    "painting": 2835,
    "art": 1528,
    "graphic": 644,
    "origami": 550,
    "tattoo": 1947,
    "toy": 1511,
    "sticker": 508,
    "graffiti": 941,
    "sculpture": 1196,
    "sketch": 4634,
}
"""The styles of ImageNet-R, with the number of images in each."""

for _domain in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"):
    DATASETS.add(
        DataSet(
            f"domainnet-{_domain}",
            _domain,
            f"the domain {_domain} of DomainNet",
            f"{_LISTS}:labelled_lists",
            {
                f"domainnet/{_domain}_train.txt": "the list of training images of the cleaned version",
                f"domainnet/{_domain}_test.txt": "the list of test images of the cleaned version",
                f"domainnet/{_domain}": "the folder of 345 class folders",
            },
            345,
            {},
            {"folder": "domainnet", "parts": {"train": f"{_domain}_train.txt", "test": f"{_domain}_test.txt"}},
            source="arXiv 1812.01754",
            licence="fair use for research",
        )
    )

for _domain in ("Art", "Clipart", "Product", "Real World"):
    DATASETS.add(
        DataSet(
            f"office-home-{_domain.split()[0].lower()}",
            _domain,
            f"the domain {_domain} of Office-Home",
            "avalanche_vlm.benchmarks.sources.class_folders:class_folders",
            {f"{_HOME}/{_domain}": "the folder of 65 class folders"},
            65,
            {},
            {"parts": {"all": f"{_HOME}/{_domain}"}},
            source="arXiv 1706.07522",
            licence="non-commercial research and education",
        )
    )

for _generator in (
    "gaugan biggan wild whichfaceisreal san cyclegan imle deepfake crn".split()  # noqa: SIM905
):
    DATASETS.add(
        DataSet(
            f"cddb-{_generator}",
            _generator,
            f"real pictures and those of {_generator} in CDDB",
            f"{_LISTS}:real_and_fake",
            {
                f"CDDB/{_generator}/train": "the folder of training images, in folders 0_real and 1_fake",
                f"CDDB/{_generator}/val": "the folder of test images, in folders 0_real and 1_fake",
            },
            2,
            {},
            {"parts": {"train": f"CDDB/{_generator}/train", "test": f"CDDB/{_generator}/val"}},
            prompts=("a {} photo.",),
            source="arXiv 2205.05467",
        )
    )

for _style, _images in STYLES.items():
    DATASETS.add(
        DataSet(
            f"imagenet-r-{_style}-folders",
            _style,
            f"ImageNet-R in the style {_style}, in folders",
            "avalanche_vlm.benchmarks.sources.class_folders:styled_folders",
            {
                "imagenet-r/train": "the folder of 200 class folders with training images",
                "imagenet-r/test or imagenet-r/val": "the folder of 200 class folders with test images",
            },
            200,
            {TOGETHER: _images},
            {"parts": {"train": "imagenet-r/train", "test": "imagenet-r/test or imagenet-r/val"}, "style": _style},
            renamed=wording("ImageNet"),
            prompts=tuple(wording("prompts for ImageNet")),
            notes=("which images its users put into the training and the test folder is not published as a list",),
            **about("imagenet-r"),
        )
    )
    DATASETS.add(
        DataSet(
            f"imagenet-r-{_style}-coda",
            _style,
            f"ImageNet-R in the style {_style}, with CODA-Prompt's split",
            f"{_LISTS}:styled_lists",
            {
                "imagenet-r/imagenet-r_train.yaml": "CODA-Prompt's list of training images",
                "imagenet-r/imagenet-r_test.yaml": "CODA-Prompt's list of test images",
                "imagenet-r": "the folder of 200 class folders",
            },
            200,
            {TOGETHER: _images},
            {
                "folder": "imagenet-r",
                "parts": {"train": "imagenet-r_train.yaml", "test": "imagenet-r_test.yaml"},
                "style": _style,
            },
            renamed=wording("ImageNet"),
            prompts=tuple(wording("prompts for ImageNet")),
            **about("imagenet-r"),
        )
    )

DATASETS.add(
    DataSet(
        "core50",
        "CORe50",
        "CORe50 in 128 x 128 pixels, new instances in eight batches",
        f"{_LISTS}:labelled_lists",
        {
            **{f"{_NI}/train_batch_{batch:02d}_filelist.txt": f"the list of batch {batch}" for batch in range(8)},
            f"{_NI}/test_filelist.txt": "the list of test images, of the sessions 3, 7 and 10",
            "core50/core50_128x128": "the folder of the sessions s1 to s11",
        },
        50,
        {},
        {
            "folder": _NI,
            "parts": {
                **{f"train {batch}": f"train_batch_{batch:02d}_filelist.txt" for batch in range(8)},
                "test": "test_filelist.txt",
            },
            "images": "core50/core50_128x128",
        },
        renamed=wording("objects of CORe50"),
        source="arXiv 1705.03550",
        licence="CC BY 4.0",
    )
)
