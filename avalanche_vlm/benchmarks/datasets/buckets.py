"""CLEAR: the same classes in buckets of the years in which their pictures were taken."""

from __future__ import annotations

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, DataSet

_DATED = "avalanche_vlm.benchmarks.sources.dated"
_COUNTS = "how many images its buckets have is not verified, nor that a class for everything else is one of them"

for _name, _classes, _first in (("clear10", 11, "neurips2021"), ("clear100", 101, "cvpr2022")):
    DATASETS.add(
        DataSet(
            _name,
            _name.upper(),
            f"{_name.upper()} in a training and a test folder",
            f"{_DATED}:dated_metadata",
            {
                f"{_name}/{part}/{file}": what
                for part in ("train", "test")
                for file, what in {
                    "labeled_metadata.json": "the object that names a file for each bucket and class",
                    "class_names.txt": "the list of the classes",
                }.items()
            },
            _classes,
            {},
            {"folder": _name},
            source="arXiv 2201.06289",
            notes=(_COUNTS,),
        )
    )
    _folder = f"{_name}_{_first}"
    DATASETS.add(
        DataSet(
            f"{_name}-{_first}",
            _name.upper(),
            f"{_name.upper()} in its first edition",
            f"{_DATED}:dated_lists",
            {
                f"{_folder}/training_folder/bucket_indices.json": "the list of the buckets",
                f"{_folder}/class_names.txt": "the list of the classes",
                f"{_folder}/training_folder/testset_ratio_0.3/split_0": "the lists of a bucket's images, a folder each",
            },
            _classes,
            {},
            {"folder": _folder, "lists": "training_folder/testset_ratio_0.3/split_0"},
            source="arXiv 2201.06289",
            notes=(_COUNTS,),
        )
    )
