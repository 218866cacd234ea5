"""Published data sets in miniature, in the formats in which they are handed out."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

COLOURS = ((200, 30, 30), (30, 160, 60), (40, 60, 200), (220, 200, 40), (160, 40, 180), (40, 190, 190))


def dot(path: Path, label: int, number: int = 0) -> Path:
    """A picture of one colour, another one for each label and number, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple((c + 7 * number) % 256 for c in COLOURS[label % len(COLOURS)])
    Image.new("RGB", (24 + number, 20 + label % 5), colour).save(path)
    return path


def write(path: Path, content: str | bytes) -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def class_folders(folder: Path, classes: list[str], each: int, name: str = "{label}_{number}.jpg") -> Path:
    """A folder for each class."""
    for label, of in enumerate(classes):
        for number in range(1, each + 1):
            dot(folder / of / name.format(label=of, number=number), label, number)
    return folder


def aircraft(root: Path, folder: str = "fgvc-aircraft-2013b/data") -> None:
    """Lists of ``number variant``, whose variants may have blanks and underscores."""
    variants = ["707-320", "A340-200", "Cessna 172_x"]
    write(root / folder / "variants.txt", "".join(f"{v}\n" for v in variants))
    for part, first in (("train", 0), ("val", 20), ("test", 40)):
        lines = [(f"{1000000 + first + 3 * k + c}", v, c) for k in range(2) for c, v in enumerate(variants)]
        write(root / folder / f"images_variant_{part}.txt", "".join(f"{image} {v}\n" for image, v, _ in lines))
        for image, _, label in lines:
            dot(root / folder / "images" / f"{image}.jpg", label, first)


def caltech101(root: Path) -> None:
    """Class folders, upper and lower case, and the background that is no class."""
    classes = ["BACKGROUND_Google", "Faces", "Leopards", "accordion", "crocodile_head"]
    folder = class_folders(root / "caltech101/101_ObjectCategories", classes, 5, "image_{number:04d}.jpg")
    assert folder.is_dir()


def cifar100(root: Path, classes: int = 4, train: int = 6, test: int = 2, protocol: int = 2) -> None:
    """Pickled batches, written as Python 2 wrote them."""
    folder = root / "cifar-100-python"
    for part, each in (("train", train), ("test", test)):
        labels = [c for _ in range(each) for c in range(classes)]
        rng = np.random.default_rng(len(labels))
        data = rng.integers(0, 256, (len(labels), 3072)).astype(np.uint8)
        for row, label in enumerate(labels):
            data[row, : 1024 * (1 + label % 3)] //= 2 + label
        content = {"data": data, "fine_labels": labels, "coarse_labels": [0] * len(labels), "batch_label": part}
        write(folder / part, pickle.dumps(content, protocol=protocol))
    names = ["apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle"]
    names += [f"thing_{n}" for n in range(10, classes)]
    write(folder / "meta", pickle.dumps({"fine_label_names": names[:classes]}, protocol=protocol))


def dtd(root: Path) -> None:
    """Lists of ``class/image.jpg``."""
    for part, first in (("train1", 1), ("val1", 3), ("test1", 5)):
        lines = [f"{of}/{of}_{k:04d}.jpg" for of in ("banded", "polka-dotted") for k in (first, first + 1)]
        write(root / "dtd/dtd/labels" / f"{part}.txt", "".join(f"{line}\n" for line in lines))
        for number, line in enumerate(lines):
            dot(root / "dtd/dtd/images" / line, number // 2, first)


LAND = ["AnnualCrop", "Forest", "HerbaceousVegetation"]


def eurosat(root: Path) -> None:
    """Class folders whose files sort as text: 10 before 2."""
    class_folders(root / "eurosat/2750", LAND, 10)


def flowers(root: Path) -> None:
    """Lists of numbers, of which the one that trains is small."""
    labels = np.array([1 + k % 3 for k in range(18)], dtype=np.uint8)
    folder = root / "flowers-102"
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    parts = {"trnid": [4, 2, 3], "valid": [1, 5, 6], "tstid": list(range(7, 19))}
    scipy.io.savemat(folder / "setid.mat", {name: np.array([of], dtype=np.uint16) for name, of in parts.items()})
    for number, label in enumerate(labels, start=1):
        dot(folder / "jpg" / f"image_{number:05d}.jpg", int(label), number)


def food101(root: Path) -> None:
    """An object from class to images, not in the order of the names."""
    for part, first in (("train", 0), ("test", 50)):
        content = {of: [f"{of}/{first + k}" for k in range(3)] for of in ("pizza", "apple_pie")}
        write(root / "food-101/meta" / f"{part}.json", json.dumps(content))
        for label, images in enumerate(content.values()):
            for image in images:
                dot(root / "food-101/images" / f"{image}.jpg", label, first)


def idx(values: np.ndarray) -> bytes:
    """An array of bytes as an idx file."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def mnist(root: Path, train: int = 20, test: int = 10) -> None:
    """Four idx files."""
    rng = np.random.default_rng(0)
    for part, n in (("train", train), ("t10k", test)):
        labels = np.arange(n) % 10
        pictures = rng.integers(0, 25, (n, 28, 28)) + 20 * labels[:, None, None]
        write(root / "MNIST/raw" / f"{part}-images-idx3-ubyte", idx(pictures))
        write(root / "MNIST/raw" / f"{part}-labels-idx1-ubyte", idx(labels))


def oxford_pet(root: Path) -> None:
    """Lists of ``image class species breed``."""
    breeds = (("Abyssinian", 1), ("american_bulldog", 2), ("Bengal", 3))
    for part, first in (("trainval", 1), ("test", 100)):
        lines = [f"{name}_{k} {c} 1 1" for name, c in breeds for k in (first, first + 1)]
        write(root / "oxford-iiit-pet/annotations" / f"{part}.txt", "".join(f"{line}\n" for line in lines))
        for line in lines:
            dot(root / "oxford-iiit-pet/images" / f"{line.split()[0]}.jpg", int(line.split()[1]), first)


def stanford_cars(root: Path) -> None:
    """Annotations in MATLAB's files, with the columns that the real ones have."""
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True, exist_ok=True)
    names = np.empty((1, 2), dtype=object)
    names[0] = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    scipy.io.savemat(folder / "devkit/cars_meta.mat", {"class_names": names})
    columns = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.zeros((1, 4), dtype=[(column, "O") for column in columns])
        for number in range(4):
            name = f"{number + 1:05d}.jpg"
            rows[0, number] = (1, 1, 9, 9, 1 + number % 2, name)
            dot(folder / f"cars_{part}" / name, number % 2, number)
        scipy.io.savemat(folder / file, {"annotations": rows})


def sun397(root: Path) -> None:
    """Classes in folders in folders, some a level further down."""
    classes = ["/a/abbey", "/b/baseball_field", "/b/bistro/indoor", "/b/bistro/outdoor"]
    write(root / "SUN397/ClassName.txt", "".join(f"{of}\n" for of in classes))
    for label, of in enumerate(classes):
        for number in range(5):
            dot(root / f"SUN397{of}" / f"sun_{'edcba'[number]}{label}.jpg", label, number)


TORCHVISION: Mapping[str, Callable[[Path], None]] = {
    "aircraft": aircraft,
    "caltech101": caltech101,
    "cifar100": cifar100,
    "dtd": dtd,
    "eurosat": eurosat,
    "flowers": flowers,
    "food101": food101,
    "mnist": mnist,
    "oxford-pet": oxford_pet,
    "stanford-cars": stanford_cars,
    "sun397": sun397,
}
"""What makes each data set of MTIL below a root."""

SYNSETS = ["n01440764", "n01443537", "n01484850", "n01491361"]
"""Tench, goldfish, great white shark, tiger shark."""


def tinyimagenet(root: Path) -> None:
    """Training images in ``train/<synset>/images``, test images with a list, ids in another order than the synsets'."""
    home, classes = root / "tiny-imagenet-200", ["n02124075", "n01443537", "n07749582", "n04540053"]
    write(home / "wnids.txt", "\n".join(classes))
    for label, of in enumerate(classes):
        for number in range(3):
            dot(home / "train" / of / "images" / f"{of}_{number}.JPEG", label, number)
        write(home / "train" / of / f"{of}_boxes.txt", "no image")
    lines = [f"val_{n}.JPEG\t{classes[n % 4]}\t0\t0\t9\t9" for n in range(8)]
    write(home / "val/val_annotations.txt", "\n".join(lines))
    for number in range(8):
        dot(home / f"val/images/val_{number}.JPEG", number % 4, 9)


def imagenet(root: Path) -> None:
    """Class folders of synsets."""
    class_folders(root / "imagenet/train", SYNSETS, 3, "{label}_{number}.JPEG")
    class_folders(root / "imagenet/val", SYNSETS, 2, "ILSVRC2012_val_{number:08d}.JPEG")


def imagenet_r(root: Path) -> None:
    """Class folders, CODA-Prompt's lists, RAPF's list, and LAMDA's folders."""
    home = class_folders(root / "imagenet-r", SYNSETS, 3, "art_{number}.jpg")
    coda = {"train": (1, 2), "test": (3,)}
    for part, numbers in coda.items():
        rows = [(f"data/imagenet-r/{of}/art_{n}.jpg", c) for c, of in enumerate(SYNSETS) for n in numbers]
        lines = ["data:", *(f"- {path}" for path, _ in rows), "targets:", *(f"- {label}" for _, label in rows)]
        write(home / f"imagenet-r_{part}.yaml", "\n".join(lines))
    rapf = ["train", *(f"{of}/art_{n}.jpg" for of in SYNSETS for n in (2, 3)), "test_img_R.py", "test"]
    write(home / "imgr_train_test_split.txt", "\n".join([*rapf, *(f"{of}/art_1.jpg" for of in SYNSETS)]))
    folders(root, "imagenet-r", SYNSETS)


def cub200(root: Path) -> None:
    """Lists that give numbers to images, and classes with numbers before their names."""
    home, names = root / "CUB_200_2011", ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    rows = [(f"{of}/{of[4:]}_{n:04d}.jpg", c) for c, of in enumerate(names, start=1) for n in range(4)]
    for number, (path, label) in enumerate(rows, start=1):
        dot(home / "images" / path, label, number)
    lists = {
        "images.txt": [path for path, _ in rows],
        "image_class_labels.txt": [label for _, label in rows],
        "train_test_split.txt": [int(number % 4 < 3) for number in range(len(rows))],
        "classes.txt": names,
    }
    for name, lines in lists.items():
        write(home / name, "".join(f"{number} {line}\n" for number, line in enumerate(lines, start=1)))


def folders(root: Path, name: str, classes: list[str]) -> None:
    """LAMDA's ready-made folders."""
    class_folders(root / name / "train", classes, 2)
    class_folders(root / name / "test", classes, 1)


def domainnet(root: Path) -> None:
    """``path label`` a line, in a list for each domain and part."""
    for domain in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"):
        for part, numbers in (("train", (1, 2)), ("test", (3,))):
            rows = [(f"{domain}/{of}/{domain}_{c}_{n}.jpg", c) for c, of in enumerate(("aircraft_carrier", "zigzag"))
                    for n in numbers]  # fmt: skip
            write(root / "domainnet" / f"{domain}_{part}.txt", "".join(f"{path} {label}\n" for path, label in rows))
            for path, label in rows:
                dot(root / "domainnet" / path, label, numbers[0])


def office_home(root: Path) -> None:
    """Class folders below the domains."""
    for domain in ("Art", "Clipart", "Product", "Real World"):
        class_folders(root / "OfficeHomeDataset_10072016" / domain, ["Alarm_Clock", "Bike"], 10)


def cddb(root: Path) -> None:
    """Real and generated pictures, at the top or in folders for what they show."""
    for generator in ("gaugan", "biggan", "wild", "whichfaceisreal", "san"):
        for part in ("train", "val"):
            inside = ("cat", "dog") if generator == "biggan" else ("",)
            for label, of in enumerate(("0_real", "1_fake")):
                for n in range(2):
                    dot(root / "CDDB" / generator / part / inside[n % len(inside)] / of / f"{n}.png", label, n)


def gtsrb(root: Path) -> None:
    """Training images in folders of numbers, test images with a table whose columns semicolons part."""
    class_folders(root / "gtsrb/GTSRB/Training", ["00000", "00001", "00014"], 2, "{number:05d}.ppm")
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, label in enumerate((14, 0, 1)):
        dot(root / f"gtsrb/GTSRB/Final_Test/Images/{number:05d}.ppm", label, number)
        rows.append(f"{number:05d}.ppm;24;20;1;1;9;9;{label}")
    write(root / "gtsrb/GT-final_test.csv", "\n".join(rows) + "\n")


def svhn(root: Path, train: int = 12, test: int = 6) -> None:
    """Pictures with their number last, and digits of which 10 stands for 0."""
    rng = np.random.default_rng(0)
    (root / "svhn").mkdir(parents=True, exist_ok=True)
    for part, number in (("train", train), ("test", test)):
        pictures = rng.integers(0, 256, (32, 32, 3, number), dtype=np.uint8)
        digits = np.array([[1 + k % 3 if k % 3 else 10] for k in range(number)], dtype=np.uint8)
        scipy.io.savemat(root / f"svhn/{part}_32x32.mat", {"X": pictures, "y": digits})


EIGHT = {
    "resisc45": ["airplane", "sea_ice"],
    "dtd": ["banded", "polka-dotted"],
    "EuroSAT_Splitted": ["AnnualCrop", "SeaLake"],
    "SUN397": ["a_abbey", "b_bistro_indoor"],
}
"""Ready-made folders, and classes in them."""


def vision_eight(root: Path) -> Path:
    """The eight data sets of task vectors as MagMax reads them."""
    for make in (stanford_cars, mnist, gtsrb, svhn):
        make(root)
    for name, classes in EIGHT.items():
        folders(root, name, classes)
    return root


def styles(root: Path) -> None:
    """ImageNet-R whose files' names begin with a style; one class has no image in the second style's training part."""
    from avalanche_vlm.benchmarks.datasets.domains import STYLES

    listed: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for number, style in enumerate(STYLES):
        for part, each in (("train", 2), ("test", 1)):
            for label, of in enumerate(SYNSETS[:2]):
                if style == "cartoon" and part == "train" and label == 1:
                    continue
                for k in range(each):
                    name = f"{style}_{part}{k}.jpg"
                    dot(root / "imagenet-r" / part / of / name, label, number)
                    dot(root / "imagenet-r" / of / name, label, number)
                    listed[part].append((f"data/imagenet-r/{of}/{name}", label))
    for part, rows in listed.items():
        lines = ["data:", *(f"- {path}" for path, _ in rows), "targets:", *(f"- {label}" for _, label in rows)]
        write(root / f"imagenet-r/imagenet-r_{part}.yaml", "\n".join(lines))


def core50(root: Path, objects: tuple[int, ...] = (1, 2, 6), runs: tuple[int, ...] = (0, 3)) -> None:
    """A folder for each session and object, and for each run a list for each batch and one of the test sessions."""
    home, trained, tested = root / "core50", (1, 2, 4, 5, 6, 8, 9, 11), (3, 7, 10)
    for session in (*trained, *tested):
        for k in objects:
            for frame in range(2):
                dot(
                    home / f"core50_128x128/s{session}/o{k}/C_{session:02d}_{k:02d}_{frame:03d}.png", k, session + frame
                )

    def rows(sessions: tuple[int, ...]) -> str:
        return "".join(
            f"s{session}/o{k}/C_{session:02d}_{k:02d}_{frame:03d}.png {k - 1}\n"
            for session in sessions
            for k in objects
            for frame in range(2)
        )

    for run in runs:
        lists = home / f"batches_filelists/NI_inc/run{run}"
        for batch in range(8):
            write(lists / f"train_batch_{batch:02d}_filelist.txt", rows((trained[(batch + run) % 8],)))
        write(lists / "test_filelist.txt", rows(tested))


def clear(root: Path, buckets: int = 3) -> None:
    """Both editions of CLEAR-10: JSON files for each bucket and class, and lists for each bucket."""
    names = ["baseball", "BACKGROUND"]
    for part, each in (("train", 2), ("test", 1)):
        home, index = root / "clear10" / part, {}
        for bucket in range(1, buckets + 1):
            index[str(bucket)] = {name: f"labeled_metadata/{bucket}/{name}.json" for name in names}
            for label, name in enumerate(names):
                paths = [f"labeled_images/{bucket}/{name}/{k}.jpg" for k in range(each)]
                for k, path in enumerate(paths):
                    dot(home / path, label, 10 * bucket + k)
                entries = {str(k): {"IMG_PATH": path, "TITLE": name} for k, path in enumerate(paths)}
                write(home / index[str(bucket)][name], json.dumps(entries))
        write(home / "labeled_metadata.json", json.dumps(index))
        write(home / "class_names.txt", "\n".join(names))
    first = root / "clear10_neurips2021"
    write(first / "class_names.txt", "\n".join(names))
    write(first / "training_folder/bucket_indices.json", json.dumps(list(range(1, buckets + 1))))
    for bucket in range(1, buckets + 1):
        paths = [(f"labeled_images/{bucket}/{name}/{k}.jpg", c) for c, name in enumerate(names) for k in range(3)]
        for number, (path, label) in enumerate(paths):
            dot(first / path, label, number)
        for division in range(2):
            for part in ("train", "test"):
                kept = [row for k, row in enumerate(paths) if (k % 3 == division) == (part == "test")]
                rows = [f"{path} {label}\n" for path, label in kept]
                place = f"training_folder/testset_ratio_0.3/split_{division}/{bucket}/{part}.txt"
                write(first / place, "".join(rows))


COOP = {
    "caltech101-coop": ("caltech-101/split_zhou_Caltech101.json", "caltech-101/101_ObjectCategories",
                        ["face", "leopard", "pizza"]),
    "dtd-coop": ("dtd/split_zhou_DescribableTextures.json", "dtd/images", ["banded", "polka-dotted"]),
    "eurosat-coop": ("eurosat/split_zhou_EuroSAT.json", "eurosat/2750", ["AnnualCrop", "River"]),
    "flowers-coop": ("oxford_flowers/split_zhou_OxfordFlowers.json", "oxford_flowers/jpg", ["lotus", "pink primrose"]),
    "food101-coop": ("food-101/split_zhou_Food101.json", "food-101/images", ["apple_pie", "pizza"]),
    "oxford-pets-coop": ("oxford_pets/split_zhou_OxfordPets.json", "oxford_pets/images", ["abyssinian", "beagle"]),
    "stanford-cars-coop": ("stanford_cars/split_zhou_StanfordCars.json", "stanford_cars",
                           ["2000 AM General Hummer SUV", "2012 Acura RL Sedan"]),
    "sun397-coop": ("sun397/split_zhou_SUN397.json", "sun397/SUN397", ["abbey", "indoor bistro"]),
    "ucf101-coop": ("ucf101/split_zhou_UCF101.json", "ucf101/UCF-101-midframes", ["Apply_Eye_Makeup", "Archery"]),
}  # fmt: skip
"""Split file, folder of the images, and class names of each data set with CoOp's split."""


def coop(root: Path, name: str, train: int = 3) -> None:
    """A split file of CoOp's, and its images."""
    file, images, classes = COOP[name]
    content: dict[str, list] = {}
    for part, each in (("train", train), ("val", 1), ("test", 2)):
        content[part] = [[f"{of}/{part}_{k}.jpg", c, of] for c, of in enumerate(classes) for k in range(each)]
        for path, label, _ in content[part]:
            dot(root / images / path, label, each)
    write(root / file, json.dumps(content))


def torchvision_root(root: Path) -> Path:
    """All of MTIL below one root."""
    for make in TORCHVISION.values():
        make(root)
    return root


def coop_root(root: Path) -> Path:
    """All of X-TAIL, and of MTIL with CoOp's splits, below one root."""
    for name in COOP:
        coop(root, name)
    aircraft(root, "fgvc_aircraft")
    mnist(root, 60)  # of which a fifth may be set apart
    cifar100(root)
    return root


def karpathy_json(
    root: Path, file: str, splits: Mapping[str, int], image: Callable[[int, str], str], each: int = 5
) -> list[dict]:
    """Karpathy's JSON: splits in turns, ids that are not contiguous, ``each`` captions an image; and its images.

    :param splits: number of images of each split.
    :param image: what the image of a number and a split is called below the folder of the file.
    """
    left, images = dict(splits), []
    while any(left.values()):
        for split in [name for name, number in left.items() if number]:
            left[split] -= 1
            number = len(images)
            name = image(number, split)
            dot(root / Path(file).parent / name, number, number)
            folder, _, bare = Path(name).as_posix().rpartition("/")
            words = [{"raw": f"picture {number} in words {k}", "tokens": ["picture"]} for k in range(each)]
            ids = {"filepath": folder, "cocoid": 391895 + 7 * number} if "2014" in folder else {}
            images.append({"filename": bare, "split": split, "imgid": number, "sentences": words, **ids})
    write(root / file, json.dumps({"images": images, "dataset": "coco"}))
    return images


def coco_karpathy(root: Path) -> list[dict]:
    """COCO's pictures of 2014 with Karpathy's split."""

    def name(number: int, split: str) -> str:
        year = "train2014" if split == "train" else "val2014"
        return f"{year}/COCO_{year}_{391895 + 7 * number:012d}.jpg"

    return karpathy_json(root, "coco/dataset_coco.json", {"train": 4, "restval": 2, "val": 2, "test": 3}, name)


def flickr30k(root: Path, train: int = 8) -> list[dict]:
    """Flickr30k's pictures with Karpathy's split; the JSON file says nothing of their folder."""
    splits = {"train": train, "val": 3, "test": 2}
    return karpathy_json(root, "flickr30k/dataset_flickr30k.json", splits, lambda number, _: f"images/{number}.jpg")


def coco_captions(root: Path, file: str, folder: str, numbers: range, each: int = 5, year: str = "") -> None:
    """COCO's file of captions: ids that are not contiguous, annotations in no order of images."""
    names = {10 * n + 3: f"{year and f'COCO_{year}_'}{n:012d}.jpg" for n in numbers}
    for number, name in zip(numbers, names.values(), strict=True):
        dot(root / folder / name, number, number)
    captions = [
        {"id": 7 * place, "image_id": image, "caption": f"picture {image} in words {k}"}
        for place, (k, image) in enumerate((k, image) for k in range(each) for image in names)
    ]
    images = [{"id": image, "file_name": name} for image, name in names.items()]
    write(root / file, json.dumps({"images": images, "annotations": captions}))


def described(root: Path, folder: str, number: int, split: str = "", suffix: str = ".png") -> None:
    """A folder with a table of captions, as data hubs hand them out."""
    rows = []
    for n in range(number):
        dot(root / folder / split / f"{n}{suffix}", n, n)
        rows.append({"file_name": f"{n}{suffix}", "text": f"{folder} {split} {n}".replace("  ", " ")})
    write(root / folder / split / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def c_clip(root: Path) -> None:
    """The eight data sets of C-CLIP's reproduction, one of them with a split of its own."""
    flickr30k(root)
    for part, numbers in (("train", range(4)), ("val", range(4, 6))):
        coco_captions(root, f"coco/annotations/captions_{part}2017.json", f"coco/{part}2017", numbers)
    for folder in ("pets", "lexica", "wikiart", "kream", "sketch"):
        described(root, folder, 5)
    for split, number in (("train", 3), ("test", 2)):
        described(root, "simpsons", number, split)


def tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar with files in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as to:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            to.addfile(info, io.BytesIO(content))
    return path


def pair(number: int, key: str, **told: object) -> dict[str, bytes]:
    """The files of one sample in a tar: a picture, and a text or what a JSON object says of it."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, 90)).save(out, "JPEG")
    text = told.pop("txt", None)
    files = {f"{key}.jpg": out.getvalue()}
    if text is not None:
        files[f"{key}.txt"] = str(text).encode()
    if told:
        files[f"{key}.json"] = json.dumps(told).encode()
    return files


def tars(folder: Path, samples: Sequence[dict[str, bytes]], each: int, name: str) -> None:
    """Samples in tars of so many each, named by their numbers."""
    for shard in range(0, len(samples), each):
        files = {key: content for of in samples[shard : shard + each] for key, content in of.items()}
        tar(folder / name.format(shard // each), files)


def tic_datacomp(
    root: Path, each: int = 4, tested: int = 3, times: Iterable[int] = range(2014, 2023), by: str = "yearly"
) -> None:
    """DataComp's tars by year or month as its resharder writes them, in a folder a part of the pool as TiC-CLIP's own
    have them for 2018; and the retrieval sets, renamed for CLIP_benchmark."""
    for year in times:
        samples = [
            pair(year + n, f"{n:08d}", txt=f"trained {year}\nas {n}", uid=f"{year:016x}{n:016x}", url="http://x")
            for n in range(each)
        ]
        place = root / f"tic/datacomp/{by}/train/{year}"
        if year == 2018:
            tars(place / "2", samples[:2], 2, "{:08d}.tar")
            tars(place / "10", samples[2:], 2, "{:08d}.tar")
        else:
            tars(place, samples, 3, "{:08d}.tar")
        of = [
            pair(5 * year + n, f"{n:08d}", txt=f"tested {year} as {n}", uid=f"{year:016x}{n:016x}")
            for n in range(tested)
        ]
        place = root / f"tic/datacomp/{by}/eval/retrieval/{year}"
        tars(place, of, 2, "{}.tar")
        write(place / "nshards.txt", f"{-(-tested // 2)}\n")
        write(place / "count.txt", f"{tested}\n")
        write(place / "dataset_type.txt", "retrieval\n")


def tic_batches(root: Path, folder: str, batches: Sequence[str], train: int = 150, test: int = 2) -> None:
    """What TiC-CLIP's script writes of YFCC or RedCaps: tars of a batch, named after its tables."""
    for batch in batches:
        for part, number in (("train", train), ("test", test)):
            samples = [pair(n + 7 * int(batch), str(n), caption=f"{part} {batch} {n}") for n in range(number)]
            tars(root / "tic" / folder, samples, 100, f"{part}_batch_{batch}__{{:08d}}.tar")


CLASS_INCREMENTAL: dict[str, tuple[Callable[[Path], Any], dict[str, Any], int]] = {
    "tinyimagenet": (tinyimagenet, {"base": 2, "increment": 1}, 3),
    "imagenet100": (imagenet, {"increment": 2}, 2),
    "imagenet1k": (imagenet, {"increment": 4}, 1),
    "imagenet-r": (imagenet_r, {"increment": 2}, 2),
    "cub200": (cub200, {"splits": "official", "increment": 1}, 3),
    "aircraft": (aircraft, {"splits": "official", "increment": 3}, 1),
    "cars": (stanford_cars, {"splits": "official", "increment": 1}, 2),
    "food101": (food101, {"splits": "official", "increment": 1}, 2),
    "sun397": (sun397, {"splits": "seeded", "increment": 4}, 1),
    "ucf101": (lambda root: coop(root, "ucf101-coop"), {"splits": "coop", "increment": 1}, 2),
    "objectnet": (lambda root: folders(root, "objectnet", ["a", "b"]), {"increment": 1}, 2),
}
"""By the benchmark: what makes its files, options that fit their few classes, and how many tasks these are."""
