"""What is the same of a data set in every layout in which it is handed out: prompts, source and licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avalanche_vlm.benchmarks.datasets.declaration import wording

_RESEARCH = "non-commercial research only"
_FACTS: Mapping[str, Mapping[str, str]] = {
    "aircraft": {"prompts": "for aircraft", "source": "arXiv 1306.5151", "licence": _RESEARCH},
    "caltech101": {"prompts": "for objects", "source": "Fei-Fei, Fergus, Perona 2004", "licence": "CC BY 4.0"},
    "cub200": {
        "prompt": "a photo of a {}, a type of bird.",
        "source": "Wah, Branson, Welinder, Perona, Belongie 2011",
        "licence": "non-commercial research and education",
    },
    "dtd": {"prompts": "for textures", "source": "arXiv 1311.3618", "licence": "for research"},
    "eurosat": {"prompts": "for land", "source": "arXiv 1709.00029", "licence": "MIT"},
    "flowers": {"prompt": "a photo of a {}, a type of flower.", "source": "Nilsback, Zisserman 2008"},
    "food101": {
        "prompt": "a photo of a {}, a type of food.",
        "source": "Bossard, Guillaumin, Van Gool 2014",
        "licence": "the pictures are Foodspotting's users': research only",
    },
    "gtsrb": {"prompts": "for signs", "source": "Stallkamp, Schlipsing, Salmen, Igel 2012"},
    "imagenet-r": {"source": "arXiv 2006.16241", "licence": "the pictures are their authors'"},
    "oxford-pets": {
        "prompt": "a photo of a {}, a type of pet.",
        "source": "Parkhi, Vedaldi, Zisserman, Jawahar 2012",
        "licence": "CC BY-SA 4.0",
    },
    "resisc45": {"prompts": "for aerial pictures", "source": "arXiv 1703.00121"},
    "stanford-cars": {"prompts": "for cars", "source": "Krause, Stark, Deng, Fei-Fei 2013", "licence": _RESEARCH},
    "sun397": {"prompts": "for scenes", "source": "Xiao, Hays, Ehinger, Oliva, Torralba 2010"},
    "svhn": {
        "prompt": 'a photo of the number: "{}".',
        "source": "Netzer, Wang, Coates, Bissacco, Wu, Ng 2011",
        "licence": "non-commercial use",
    },
    "ucf101": {"prompt": "a photo of a person doing {}.", "source": "arXiv 1212.0402"},
}
"""Of ``prompts`` the name of the list in ``words.json``; nothing of what is as :class:`DataSet` has it by itself."""


def about(name: str) -> dict[str, Any]:
    """The arguments of a :class:`~avalanche_vlm.benchmarks.datasets.declaration.DataSet` that no layout changes.

    :param name: name of the data set, without its layout.
    :raises KeyError: for one of which nothing is known.

    >>> about("flowers")
    {'source': 'Nilsback, Zisserman 2008', 'prompts': ('a photo of a {}, a type of flower.',)}
    """
    found: dict[str, Any] = dict(_FACTS[name])
    if "prompts" in found:
        found["prompts"] = tuple(wording(f"prompts {found['prompts']}"))
    if "prompt" in found:
        found["prompts"] = (found.pop("prompt"),)
    return found
