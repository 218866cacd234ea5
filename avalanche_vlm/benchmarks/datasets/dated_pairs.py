"""TiC-CLIP's data sets: images with captions in the order of the years that they are from."""

from __future__ import annotations

from avalanche_vlm.benchmarks.datasets.declaration import PAIR_SETS, PairSet

_READERS = "avalanche_vlm.benchmarks.sources.dated_pairs"
_SOURCE = "arXiv 2310.16226"
_WEB = "pictures and captions are of the web, and are their authors'"

DATACOMP = {"2014 to 2016": (2014, 2015, 2016), **{str(year): (year,) for year in range(2017, 2023)}}
"""The years of each step of TiC-DataComp: three without many pairs are one."""
_BATCHES = {
    "yfcc": {"2004 to 2008": "0", "2009 to 2010": "1", "2011 to 2012": "2", "2013 to 2014": "3"},
    "redcaps": {str(year): str(year) for year in range(2017, 2021)},
}
_YEARLY = "tic/datacomp/yearly"
_MONTHLY = "tic/datacomp/monthly"
_WITHOUT_PAIRS = {2014: (1, 2, 5, 6), 2015: (9, 12), 2016: (1, 3, 11), 2022: (2, 3, 4), 2023: range(7, 13)}
MONTHS = tuple(
    f"{year}{month:02d}"
    for year in range(2014, 2024)
    for month in range(1, 13)
    if month not in _WITHOUT_PAIRS.get(year, ())
)
"""The months that TiC-DataComp has pairs of, as its authors name their folders: 201403 to 202306, with gaps."""

for _tests in (True, False):
    PAIR_SETS.add(
        PairSet(
            "tic-datacomp" if _tests else "tic-datacomp-drawn",
            "TiC-DataComp",
            f"TiC-DataComp by year, {'with its retrieval sets' if _tests else 'some pairs of each step drawn to test'}",
            f"{_READERS}:tars_in_time",
            {
                **{
                    f"{_YEARLY}/train/{year}": f"the folder of the tars of {year}"
                    for years in DATACOMP.values()
                    for year in years
                },
                **{
                    f"{_YEARLY}/eval/retrieval/{year}/nshards.txt": f"the number of tars beside it, the retrieval set "
                    f"of {year} in CLIP_benchmark's layout, which splits=drawn does without"
                    for years in DATACOMP.values()
                    for year in years
                    if _tests
                },
            },
            reading={
                "folder": f"{_YEARLY}/train",
                "steps": DATACOMP,
                "tests": f"{_YEARLY}/eval/retrieval" if _tests else None,
            },
            source=_SOURCE,
            licence=_WEB,
            notes=("how many pairs a step has depends on the scale and the filter, and is not checked",),
        )
    )

for _tests in (True, False):
    PAIR_SETS.add(
        PairSet(
            f"tic-datacomp-month{'' if _tests else '-drawn'}",
            "TiC-DataComp",
            f"TiC-DataComp by month, {'with its retrieval sets' if _tests else 'some pairs of each drawn to test'}",
            f"{_READERS}:tars_in_time",
            {
                f"{_MONTHLY}/train": f"a folder of tars for each of {len(MONTHS)} months, {MONTHS[0]} to {MONTHS[-1]}",
                **{
                    f"{_MONTHLY}/eval/retrieval": "a folder for each month as well, its retrieval set in "
                    "CLIP_benchmark's layout, which splits=drawn does without"
                    for _ in range(_tests)
                },
            },
            reading={
                "folder": f"{_MONTHLY}/train",
                "steps": {month: (month,) for month in MONTHS},
                "tests": f"{_MONTHLY}/eval/retrieval" if _tests else None,
            },
            source=_SOURCE,
            licence=_WEB,
            notes=(
                "how many pairs a month has depends on the scale and the filter, and is not checked",
                "which months have pairs is of the authors' list of tasks (apple/ml-tic-clip, commit 9e956c6)",
            ),
        )
    )

for _name, _folder, _title, _terms in (
    ("yfcc", "yfcc15m", "TiC-YFCC", "the pictures are Flickr's users', under the Creative Commons licence of each"),
    ("redcaps", "redcaps", "TiC-RedCaps", "the pictures are Reddit's users': non-commercial research"),
):
    for _own in (False, True):
        PAIR_SETS.add(
            PairSet(
                f"tic-{_name}{'-own' if _own else ''}",
                _title,
                f"{_title} in four batches of years, "
                f"{'with the test part of ones own run of the script' if _own else '1 percent of each drawn to test'}",
                f"{_READERS}:batches_of_years",
                {
                    f"tic/{_folder}": "the folder of tars as the authors' script writes them, train_batch_"
                    f"{next(iter(_BATCHES[_name].values()))}__00000000.tar and so on, or of its tables splits/"
                    f"train_batch_{next(iter(_BATCHES[_name].values()))}.csv and so on with a folder images",
                },
                reading={"folder": f"tic/{_folder}", "steps": _BATCHES[_name], "own": _own},
                source=_SOURCE,
                licence=_terms,
            )
        )
