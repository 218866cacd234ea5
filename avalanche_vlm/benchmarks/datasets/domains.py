"""Data sets of one domain each, several of which have the same classes."""

from __future__ import annotations

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, DataSet

_LISTS = "avalanche_vlm.benchmarks.sources.path_lists"
_HOME = "OfficeHomeDataset_10072016"

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
