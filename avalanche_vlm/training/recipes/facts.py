"""Facts that several recipes share."""

from __future__ import annotations

from avalanche_vlm.training.recipes.declaration import AdamW, Published, Tuned, Unpublished

FINE_TUNING = Published(
    source="ZSCL's code (arXiv 2303.06628), mtil/scripts and mtil/src/args.py",
    benchmark="MTIL",
    optimizer="AdamW",
    lr=1e-5,
    weight_decay=0.0,
    schedule="cosine",
    warmup=100,
    label_smoothing=0.2,
    iterations=1000,
    batch_size=64,
    at=("mtil",),
    rates={"Aircraft": 5e-5, "MNIST": 5e-5},
    train_templates="first",
    note="5e-5 on Aircraft and MNIST",
)
"""How CLIP's towers are fine-tuned on MTIL: what most methods that train whole towers were published with."""

CLASS_INCREMENTAL = Published(
    source="ZSCL's code (arXiv 2303.06628), cil/configs/class and cil/continual_clip/models.py",
    benchmark="class-incremental",
    optimizer="AdamW",
    lr=7.1e-6,
    weight_decay=0.0,
    schedule="cosine",
    warmup=30,
    label_smoothing=0.2,
    epochs=1,
    batch_size=64,
    at=("cifar100", "tinyimagenet"),
    options={"weight": 5.0},
    note="rows and columns at weight 5 each; CIFAR100 and TinyImageNet; 7e-6, decay 0.1, no smoothing and batches of "
    "128 on ImageNet-100",
)
"""How ZSCL's class-incremental code trains LwF-VR, and by a comment in its configurations LwF."""

MAGMAX = Published(
    source="MagMax's code (arXiv 2407.06322), scripts/CIL and src/args.py",
    benchmark="class-incremental CIFAR100 and ImageNet-R",
    optimizer="AdamW",
    lr=1e-5,
    weight_decay=0.1,
    schedule="cosine",
    warmup=500,
    label_smoothing=0.0,
    max_grad_norm=1.0,
    epochs=10,
    batch_size=128,
    at=("imagenet-r-styles",),
    note="30 epochs on CUB200 and Cars; the image tower alone; likewise on domain-incremental ImageNet-R and DomainNet",
)

LIKE_FINE_TUNING = AdamW(1e-5, "as whole towers are fine-tuned on MTIL")

MODULES = AdamW(
    5e-4, "not tuned: 50 times the rate of whole towers, since modules start anew and their towers are frozen"
)

RAPF = Published(
    source="RAPF's code (arXiv 2407.14143), configs/class and main.py",
    benchmark="class-incremental CIFAR100",
    optimizer="Adam",
    lr=1e-3,
    weight_decay=0.0,
    schedule="steps",
    epochs=15,
    batch_size=100,
    note="the rate is divided by 10 after 4 and 10 epochs",
)

CLOSED_FORM = Unpublished("nothing is trained by gradients", needed=False)

WHOLE_TOWERS = Tuned(
    lr=5e-4,
    how="Of 2.5e-4, 5e-4 and 1e-3 fine-tuning reached 85.8, 84.7 and 82.7; held-out captions lost 15.5, 22.0 and 80.9 "
    "points. 5e-4 is within the noise of the best, and the damage of a rate that one would take in good faith is what "
    "the comparison is about. All that trains whole towers takes it over.",
)
"""The picturebook's rate for whole towers; what nothing was tried for has it as well."""
