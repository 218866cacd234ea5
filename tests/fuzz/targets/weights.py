"""Files of weights with pickles of any kind: tensors, or a sentence, and nothing in them has run."""

from __future__ import annotations

import io
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from random import Random

import torch
from example import Example, WrongAccept
from mutators import changed

from avalanche_vlm.errors import InputError

SHARE, QUICK = 90, 40

CANARY = f"{tempfile.gettempdir()}/avalanche-vlm-fuzz-canary"
"""A folder that is made by what should not run."""
_CALLS = (
    "os mkdir",
    "posix mkdir",
    "builtins eval",
    "builtins exec",
    "os system",
    "subprocess check_output",
    "torch load",
    "torch.hub load",
)
_CALLS += (
    "numpy load",
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "builtins getattr",
    "functools partial",
    "importlib import_module",
)
_CALLS += (
    "torch FloatStorage",
    "torch._utils _rebuild_parameter",
    "__torch__ Module",
    "torch.jit._pickle build_intlist",
    "pathlib Path.mkdir",
)


@cache
def _seeds() -> dict[str, bytes]:
    torch.manual_seed(0)
    state = {"visual.w": torch.randn(3, 2), "bias": torch.zeros(4), "scale": torch.tensor(1.0)}
    found = {}
    for name, value, options in (
        ("zip.pt", state, {}),
        ("whole.pth", {"state_dict": state, "epoch": 3}, {}),
        ("old.bin", state, {"_use_new_zipfile_serialization": False}),
    ):
        out = io.BytesIO()
        torch.save(value, out, **options)
        found[name] = out.getvalue()
    found["script.pt"] = _script()
    return found


def _script() -> bytes:
    """An archive as TorchScript's are, by hand: its data are those of a module with one tensor."""
    out = io.BytesIO()
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x04tQ"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    )
    data = b"\x80\x02c__torch__\nModule\n)\x81}X\x06\0\0\0weight" + tensor + b"sb."
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("m/data.pkl", data)
        archive.writestr("m/data/0", b"\0" * 16)
        archive.writestr("m/code/__torch__.py", 'class Module(Module):\n  __parameters__ = ["weight", ]\n')
        archive.writestr("m/version", "3\n")
    return out.getvalue()


def make(random: Random) -> Example:
    """A file of weights: its bytes changed, or its pickle made of calls, or both."""
    name = random.choice(list(_seeds()))
    content = _seeds()[name]
    kind = random.randrange(4)
    if kind == 0:
        return Example(
            name, changed(random, content, (b"PK\3\4", b"PK\5\6", b"\x80\x02", b"cos\nmkdir\n", b"R.", b".data/0"))
        )
    pickled = hostile(random)
    if kind == 1 or not zipfile.is_zipfile(io.BytesIO(content)):
        return Example(random.choice(("raw.pt", "raw.bin", "raw.pth")), pickled)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(out, "w") as after:
        for entry in before.namelist():
            data = before.read(entry)
            if entry.endswith("data.pkl"):
                data = pickled if kind == 2 else changed(random, data, (pickled[2:-1], b"c__builtin__\neval\n"))
            after.writestr(entry, data)
    return Example(name, out.getvalue())


def hostile(random: Random) -> bytes:
    """A pickle that calls something, in one of the ways that a pickle has."""
    module, name = random.choice(_CALLS).split()
    argument = random.choice((CANARY, f"__import__('os').mkdir({CANARY!r})", f"mkdir {CANARY}"))
    text = argument.encode()
    push = b"X" + len(text).to_bytes(4, "little") + text
    short = lambda word: b"\x8c" + bytes([len(word)]) + word.encode()  # noqa: E731
    by_name = random.choice((f"c{module}\n{name}\n".encode(), short(module) + short(name) + b"\x93"))
    body = random.choice(
        (
            by_name + push + b"\x85R.",
            by_name + b"(" + push + b"tR.",
            b"(" + push + f"i{module}\n{name}\n".encode() + b".",
            b"(" + by_name + push + b"o.",
            by_name + push + b"\x85\x81.",
            by_name + b")R" + push + b"b.",
            b"}X\x01\0\0\0a" + by_name + push + b"\x85Rs.",
            b"\x80\x02" + by_name + push + b"\x85R\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        )
    )
    protocol = random.choice(
        (
            b"\x80\x02",
            b"\x80\x04",
            b"\x80\x05",
            b"",
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.",
        )
    )
    return protocol + body


def check(example: Example, folder: Path) -> None:
    """Nothing but tensors by their names."""
    from avalanche_vlm.models.checkpoints import inspect_checkpoint, read_weights

    canary = Path(CANARY)
    path = folder / example.name
    path.write_bytes(example.content)
    try:
        for read in (inspect_checkpoint, read_weights):
            try:
                found = read(path)
            except InputError:
                continue
            tensors = found if isinstance(found, dict) else found.tensors
            if not tensors or not all(isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in tensors.items()):
                raise WrongAccept(f"weights of kinds {[type(t).__name__ for t in tensors.values()]}")
            for tensor in tensors.values():
                tensor.clone()
    finally:
        if canary.exists():
            canary.rmdir()
            raise WrongAccept("code has run")
