"""Files of kept samples: each set has its own, whatever it is called."""

from __future__ import annotations

from made import tiny

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.studies.living.kept import file_name, keep_tests, kept_sets

NAMES = (
    "花",
    "木",
    "a b",
    "a/b",
    "a-b",
    "..",
    "\x1b[2J",
    "caf\udce9",
    "\ud800",
    "x" * 300,
    "x" * 299 + "y",
    "$5_",
    "=1;",
)


def test_every_name_has_a_file_of_its_own():
    found = [file_name(name) for name in NAMES]
    assert len(set(found)) == len(NAMES)
    assert all(len(name) < 80 and name.isascii() and "/" not in name and ".." not in name for name in found)


def test_held_out_sets_of_any_name_are_kept_apart(tmp_path):
    stream = picturebook.mtil_like(0, order=["sketches"], n_train=4, n_test=4, n_held_out=6, n_reference=4)
    of_class = next(of for of in stream.held_out if of.label_space is not None)
    stream.held_out = tuple(type(of_class)(name, of_class.dataset, of_class.label_space) for name in NAMES[:4])
    eval_transform = tiny().transforms.eval
    _, kept = keep_tests(tmp_path, stream, eval_transform, 3, owner="v1")
    assert len({of.file for of in kept}) == 4 == len(list((tmp_path / "tests").glob("*held-out*.json")))
    assert [of.name for of in kept_sets(tmp_path, kept, eval_transform)] == list(NAMES[:4])
