"""Benchmarks of images with captions: COCO, Flickr30k, and streams made of them and of others."""

from __future__ import annotations

from avalanche_vlm.benchmarks.families.image_text import PairStream
from avalanche_vlm.benchmarks.registry import BENCHMARKS

_SPLIT = "Karpathy, Fei-Fei: Deep Visual-Semantic Alignments for Generating Image Descriptions, CVPR 2015"
_EIGHT = ("Flickr30k", "COCO", "Pets", "Lexica", "Simpsons", "WikiArt", "Kream", "Sketch")

for _benchmark in (
    PairStream(
        name="coco-karpathy",
        summary="the captions of COCO in one task, with Karpathy's split",
        source="arXiv 1412.2306",
        citation=_SPLIT,
        members=("coco-karpathy",),
    ),
    PairStream(
        name="flickr30k",
        summary="the captions of Flickr30k in one task, with Karpathy's split",
        source="arXiv 1412.2306",
        citation=_SPLIT,
        members=("flickr30k",),
    ),
    PairStream(
        name="modx-coco-flickr",
        summary="COCO, then Flickr30k in five phases",
        source="arXiv 2305.07437",
        citation="Ni, Wei, Tang, Zhuang, Tian: Continual Vision-Language Representation Learning with Off-Diagonal "
        "Information, ICML 2023",
        members=("coco-karpathy", "flickr30k-modx"),
        orders={"published": ("COCO", "Flickr30k"), "phases": ("Flickr30k",)},
        phases={"Flickr30k": 5},
        notes=(
            "Flickr30k's training and validation images are cut into five consecutive parts in the order of their "
            "file, and every phase is tested on all of its test images",
            "order=phases is for a model that has been trained on COCO before",
            "Mod-X takes one caption of an image in an epoch, another one each time; here every caption is a sample, "
            "and captions=1 draws one for good",
        ),
    ),
    PairStream(
        name="c-clip-8",
        summary="eight data sets of captions, one after another",
        source="ICLR 2025",
        citation="Liu et al.: C-CLIP: Multimodal Continual Learning for Vision-Language Model, ICLR 2025",
        members=("flickr30k", "coco-2017", *(f"c-clip-{of.lower()}" for of in _EIGHT[2:])),
        orders={"published": _EIGHT},
        notes=(
            "the authors' data are not published: these are the data sets of a reproduction, and its split of those "
            "that have none, of which it is not verified how it is drawn",
        ),
    ),
):
    BENCHMARKS.add(_benchmark.declared())
