"""Published data sets of images with captions."""

from __future__ import annotations

from avalanche_vlm.benchmarks.datasets.declaration import PAIR_SETS, PairSet

_READERS = "avalanche_vlm.benchmarks.sources.captioned"
_FLICKR_TERMS = "the pictures are Flickr's users': non-commercial research and education"
_FLICKR = {
    "flickr30k/dataset_flickr30k.json": "the JSON file with Karpathy's split",
    "flickr30k/images or flickr30k/flickr30k-images": "the folder of 31,783 images",
}
_FLICKR_READING = {
    "file": "flickr30k/dataset_flickr30k.json",
    "images": "flickr30k/images or flickr30k/flickr30k-images",
}


def _described(folder: str, title: str, summary: str, licence: str = "not stated by its distributors") -> PairSet:
    """A set of the C-CLIP benchmark that is passed on with a caption a picture."""
    return PairSet(
        f"c-clip-{folder}",
        title,
        summary,
        f"{_READERS}:described_folder",
        {
            f"{folder}": "the folder of images with captions",
            f"{folder}/metadata.jsonl or {folder}/train/metadata.jsonl or {folder}/metadata.csv or "
            f"{folder}/train/metadata.csv": "the table of captions (file_name, text), one for the folder or one in "
            "each of its folders of splits",
        },
        reading={"folder": folder},
        source="ICLR 2025",
        licence=licence,
        notes=("without a split of its own, 80 percent of the images train, drawn with seed 42",),
    )


for _pairs in (
    PairSet(
        "coco-karpathy",
        "COCO",
        "COCO with Karpathy's split",
        f"{_READERS}:karpathy_or_captions",
        {
            "coco/dataset_coco.json or coco/coco_test_karpathy.json": "the JSON file with Karpathy's split, or one "
            "of the three coco_train_karpathy.json, coco_val_karpathy.json and coco_test_karpathy.json in COCO's form",
            "coco/train2014": "the folder of 82,783 images",
            "coco/val2014": "the folder of 40,504 images",
        },
        {"train": 113_287, "valid": 5000, "test": 5000},
        {"train": 566_747, "valid": 25_010, "test": 25_010},
        {
            "file": "coco/dataset_coco.json",
            "parts": {
                "train": "coco/coco_train_karpathy.json",
                "valid": "coco/coco_val_karpathy.json",
                "test": "coco/coco_test_karpathy.json",
            },
            "images": "coco",
        },
        source="arXiv 1405.0312, 1412.2306",
        licence="captions CC BY 4.0; the pictures are Flickr's users'",
    ),
    PairSet(
        "flickr30k",
        "Flickr30k",
        "Flickr30k with Karpathy's split",
        f"{_READERS}:karpathy_split",
        _FLICKR,
        {"train": 29_000, "valid": 1014, "test": 1000},
        {"train": 145_000, "valid": 5070, "test": 5000},
        _FLICKR_READING,
        source="Young, Lai, Hodosh, Hockenmaier 2014; arXiv 1412.2306",
        licence=_FLICKR_TERMS,
        notes=("that there are 29,000, 1,014 and 1,000 images with five captions each is not verified",),
    ),
    PairSet(
        "flickr30k-modx",
        "Flickr30k",
        "Flickr30k with Karpathy's training and validation images in one",
        f"{_READERS}:karpathy_split",
        _FLICKR,
        {"train": 30_014, "test": 1000},
        {"train": 150_070, "test": 5000},
        {**_FLICKR_READING, "trains": ("train", "valid")},
        source="Young, Lai, Hodosh, Hockenmaier 2014; arXiv 1412.2306",
        licence=_FLICKR_TERMS,
        notes=("that there are 30,014 and 1,000 images with five captions each is not verified",),
    ),
    PairSet(
        "coco-2017",
        "COCO",
        "COCO with the split of 2017",
        f"{_READERS}:caption_files",
        {
            "coco/annotations/captions_train2017.json": "the captions of the training images",
            "coco/annotations/captions_val2017.json": "the captions of the validation images, which are tested",
            "coco/train2017": "the folder of 118,287 images",
            "coco/val2017": "the folder of 5,000 images",
        },
        {"train": 118_287, "test": 5000},
        reading={
            "parts": {
                "train": "coco/annotations/captions_train2017.json",
                "test": "coco/annotations/captions_val2017.json",
            },
            "images": {"train": "coco/train2017", "test": "coco/val2017"},
        },
        source="arXiv 1405.0312",
        licence="captions CC BY 4.0; the pictures are Flickr's users'",
    ),
    _described("pets", "Pets", "captions of Oxford-IIIT Pet", "CC BY-SA 4.0 (the pictures)"),
    _described("lexica", "Lexica", "prompts and generated pictures of Lexica"),
    _described("simpsons", "Simpsons", "captions of pictures of the Simpsons"),
    _described("wikiart", "WikiArt", "captions of paintings of WikiArt"),
    _described("kream", "Kream", "captions of products of Kream"),
    _described("sketch", "Sketch", "captions of sketches of scenes"),
):
    PAIR_SETS.add(_pairs)
