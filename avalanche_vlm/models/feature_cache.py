"""Features of a frozen tower, computed once per image and kept on disk."""

from __future__ import annotations

import hashlib
import random
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from avalanche_vlm._given import refuse_irregular
from avalanche_vlm._ranks import alone, leads, sharing
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.memory.base import Columns
from avalanche_vlm.models.autocast import autocast_dtype
from avalanche_vlm.models.encoder import DualEncoder
from avalanche_vlm.models.modules.bank import Bank, named_weights
from avalanche_vlm.storage import written
from avalanche_vlm.weights.versions import tensor_versions

Batches = Callable[[], Iterable[Sequence[torch.Tensor]]]
_FORMAT = "avalanche_vlm features 1"
_DIGEST = 16
_SAMPLE = 2
"""Images of each file that are computed again before any of its features is believed."""
_OTHERWISE = 0.05
"""The most that a feature may differ from what is computed again, in its length: other devices, batches and kernels
give other last digits, at bf16 two of the first three."""


class FeatureCache:
    """A folder of image features: what an image tower has said once, it need not compute again.

    Features are found by what they depend on. A tower with its settings and weights, the transform's settings and the
    precision (autocast) have a subfolder; in it an image has the hash of the tensor that the tower would get. So
    nothing has to be declared, one folder serves many models, and a changed weight finds an empty subfolder. What is
    not looked at is the device: features that a GPU computed are found by a CPU, and differ from its own in the last
    digits.

    Each file is written whole or not at all, and several processes may share a folder. A file that is truncated, was
    changed or is none of ours is left out with a warning, and its features are computed again. So is one of which two
    images, drawn anew by every process that reads it, have other features than the tower gives: a digest can be forged.
    Where nothing can be written, what was computed stays in memory, with a warning.

    Of processes that train together the first one writes, and all take the features that it has.

    Hashing costs time as well: about a second per GB of images, and of weights whenever they may have changed. In a
    loop over epochs ask for :meth:`experience`, which hashes its images once.

    :param folder: made when the first features are written.
    :param buffer: bytes of features that are collected before a file is written, at least 1.
    :raises InputError: if the folder is a file, or for a smaller buffer.
    """

    def __init__(self, folder: str | Path, *, buffer: int = 1 << 24) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{folder} is a file: a feature cache needs a folder")
        if buffer < 1:
            raise InputError(f"a feature cache collects 1 byte or more before it writes, not {buffer}")
        self.buffer = buffer
        self._shelves: dict[str, _Shelf] = {}
        self._weights: tuple[Callable[[], Any], tuple, str] | None = None
        self._last: tuple[Callable[[], Any], str, Columns] | None = None

    def features(self, model: DualEncoder, images: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """What ``model.encode_image_plain(images, normalize)`` gives in eval mode ``[B, D]``, computed for images that
        are new. Call :meth:`flush` after the last one.

        :param images: under the model's evaluation transforms, ``[B, 3, H, W]``.
        """
        if (ranks := sharing()) is not None:  # what each process has on its disk is no matter of the others
            with alone():
                return ranks.tensor_from_first(self.features(model, images, normalize))
        shelf = self._shelf(model)
        digests = _image_digests(images)
        if proof := shelf.sample(digests):
            shelf.prove(dict(zip(proof, _computed(model, images[list(proof.values())]), strict=True)))
        missing = {digest: row for row, digest in enumerate(digests) if digest not in shelf}
        if missing:
            shelf.pending.update(zip(missing, _computed(model, images[list(missing.values())]), strict=True))
        found = torch.stack([shelf[digest] for digest in digests]).to(images.device)
        if leads():
            shelf.write(self.buffer)
        return F.normalize(found, dim=-1) if normalize else found

    def experience(self, model: DualEncoder, owner: Any, batches: Batches) -> Columns:
        """All of an experience, at once for as long as it is the last one that was asked for.

        :param owner: what stands for the data; asked for again, it is answered without loading an image.
        :param batches: gives minibatches of images ``[B, 3, H, W]``, class ids and task labels ``[B]``, in order.
        :return: ``features`` of unit length ``[N, D]``, ``y`` and ``task``.
        """
        key = self._key(model)
        if self._last is not None and self._last[0]() is owner and self._last[1] == key:
            return dict(self._last[2])
        self._last = None
        parts = [(self.features(model, images), y, task) for images, y, task in batches()]
        columns = dict(zip(("features", "y", "task"), map(torch.cat, zip(*parts, strict=True)), strict=True))
        self.flush()
        self._last = weakref.ref(owner), key, columns
        return dict(columns)

    def flush(self) -> None:
        """Write what was computed and is not written yet."""
        for shelf in self._shelves.values() if leads() else ():
            shelf.write()

    def stored(self) -> StoredBytes:
        """Bytes of the files that were read or written, and in memory of what is not written, of the last experience
        and of one hash per image."""
        shelves = self._shelves.values()
        last = () if self._last is None else self._last[2].values()
        ram = tensor_bytes(last) + sum(shelf.ram for shelf in shelves)
        return StoredBytes(ram=ram, disk=sum(shelf.disk for shelf in shelves))

    def __getstate__(self) -> dict[str, Any]:
        # Files are read again where they are needed; a copy may live in another process.
        self.flush()
        return {**self.__dict__, "_shelves": {}, "_weights": None, "_last": None}

    def _shelf(self, model: DualEncoder) -> _Shelf:
        key = self._key(model)
        if key not in self._shelves:
            # Features are float32 whatever the weights are; a projection under autocast may give its type.
            dtypes = {torch.float32, *(parameter.dtype for parameter in model.tower("image").parameters())}
            if (cast := autocast_dtype(model.device)) is not None:
                dtypes.add(cast)
            self._shelves[key] = _Shelf(self.folder / key, key, model.name, model.width, dtypes)
        return self._shelves[key]

    def _key(self, model: DualEncoder) -> str:
        tower, transform = model.tower("image"), model.transforms.eval
        tensors = [*tower.parameters(), *tower.buffers()]
        state = tensor_versions(tensors)
        if self._weights is None or self._weights[0]() is not tower or self._weights[1] != state:
            self._weights = weakref.ref(tower), state, _weights_digest(tower)
        settings = (transform.size, transform.mean, transform.std, autocast_dtype(model.device), layer_settings(tower))
        return hashlib.sha256(repr((_FORMAT, self._weights[2], settings)).encode()).hexdigest()[: 2 * _DIGEST]


class _Shelf:
    """The features of one tower, by the hash of the image: some in files, some not written yet.

    :param folder: the folder of the files.
    :param key: what tells the tower and its settings from others.
    :param name: name of the model whose tower it is.
    :param width: numbers of a feature.
    :param dtypes: types that they may be of.
    """

    def __init__(self, folder: Path, key: str, name: str, width: int, dtypes: Collection[torch.dtype]) -> None:
        self.folder, self.key, self.name, self.width, self.dtypes = folder, key, name, width, dtypes
        self.pending: dict[bytes, torch.Tensor] = {}
        self.disk = 0
        self._files: list[torch.Tensor] = []
        self._unproven: dict[int, Path] = {}
        self._places: dict[bytes, tuple[int, int]] = {}
        self._patience = 0
        for path in sorted(folder.glob("*.safetensors")):
            if self._open(path):
                self._unproven[len(self._files) - 1] = path

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places or digest in self.pending

    def __getitem__(self, digest: bytes) -> torch.Tensor:
        if digest in self.pending:
            return self.pending[digest]
        file, row = self._places[digest]
        return self._files[file][row]

    def sample(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Some images of each file that nothing has been believed of yet, with their places.

        :param digests: hashes of images that are asked for.
        """
        if not self._unproven:
            return {}
        rows: dict[int, dict[bytes, int]] = {}
        for row, digest in enumerate(digests):
            if digest not in self.pending and (place := self._places.get(digest)) and place[0] in self._unproven:
                rows.setdefault(place[0], {})[digest] = row
        # Whoever forges a file must not know which: no generator that follows from a seed, nor one that training uses.
        draw = random.SystemRandom()
        chosen = {file: draw.sample(sorted(of), min(_SAMPLE, len(of))) for file, of in rows.items()}
        return {digest: rows[file][digest] for file, of in chosen.items() for digest in of}

    def prove(self, computed: Mapping[bytes, torch.Tensor]) -> None:
        """Believe the files whose features these are, or leave them out.

        :param computed: features as the tower gives them, by the hashes of their images.
        """
        for digest, feature in computed.items():
            file = self._places[digest][0] if digest in self._places else -1
            path = self._unproven.get(file)
            if path is None:
                continue
            apart = (self[digest].float() - feature.float()).norm()
            if not apart <= _OTHERWISE * feature.float().norm():
                self._places = {of: place for of, place in self._places.items() if place[0] != file}
                del self._unproven[file]
                _warn_of(path)
        for digest in computed:
            self._unproven.pop(self._places.get(digest, (-1, 0))[0], None)

    @property
    def ram(self) -> int:
        return tensor_bytes(self.pending.values()) + _DIGEST * (len(self._places) + len(self.pending))

    def write(self, buffer: int = 0) -> None:
        """Write what is pending; with a buffer, only what has outgrown it."""
        if not self.pending:
            return
        if buffer and tensor_bytes(self.pending.values()) < max(buffer, self._patience):
            return
        digests = torch.frombuffer(bytearray(b"".join(self.pending)), dtype=torch.uint8).view(-1, _DIGEST)
        features = torch.stack(list(self.pending.values()))
        check = _check(digests, features)
        facts = {"format": _FORMAT, "key": self.key, "sha256": check, "model": self.name}
        path = self.folder / f"{check[:_DIGEST]}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with written(path) as file:
                file.write(save({"digests": digests, "features": features}, facts))
        except OSError as error:
            self._patience = 2 * tensor_bytes(self.pending.values())  # a full disk is not asked after every batch
            warnings.warn(
                f"the feature cache cannot write to {self.folder} ({error.strerror or error}): "
                f"{len(self.pending)} features stay in memory",
                VLMWarning,
                stacklevel=3,
            )
            return
        self._patience = 0
        if self._open(path):
            self.pending.clear()

    def _fits(self, digests: torch.Tensor, features: torch.Tensor) -> bool:
        """Whether they are features, and such as the tower gives: whoever has forged them knows the digest, too."""
        rows = (torch.uint8, (len(features), _DIGEST)) if features.ndim == 2 else None
        if (digests.dtype, tuple(digests.shape)) != rows:
            return False
        same = features.shape[1] == self.width and features.dtype in self.dtypes
        return same and bool(torch.isfinite(features).all())

    def _open(self, path: Path) -> bool:
        """Take in a file, whose features stay on disk until they are asked for."""
        try:
            refuse_irregular(path)
            with safe_open(path, "pt") as file:
                facts = file.metadata() or {}
                if facts.get("format") != _FORMAT or facts.get("key") != self.key:
                    raise ValueError
                digests, features = file.get_tensor("digests"), file.get_tensor("features")
            if facts["sha256"] != _check(digests, features) or not self._fits(digests, features):
                raise ValueError
        except (OSError, SafetensorError, OverflowError, RuntimeError, TypeError, ValueError, KeyError):
            _warn_of(path)
            return False
        self._places.update({bytes(d): (len(self._files), row) for row, d in enumerate(digests.numpy())})
        self._files.append(features)
        self.disk += path.stat().st_size
        return True


def _computed(model: DualEncoder, images: torch.Tensor) -> torch.Tensor:
    with model.evaluating():
        return model.encode_image_plain(images, normalize=False).cpu()


def _warn_of(path: Path) -> None:
    warnings.warn(
        f"{path} is damaged or no file of this feature cache: its features are computed again; delete it",
        VLMWarning,
        stacklevel=3,
    )


def _raw(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _image_digests(images: torch.Tensor) -> list[bytes]:
    kind = f"{images.dtype} {tuple(images.shape[1:])}".encode()
    return [hashlib.blake2b(_raw(image), digest_size=_DIGEST, key=kind[:64]).digest() for image in images.cpu()]


def _weights_digest(tower: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in [*named_weights(tower), *tower.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_raw(tensor))
    return digest.hexdigest()


def layer_settings(tower: nn.Module) -> list[tuple]:
    """What a tower's output depends on besides weights: kinds of layers and their plain attributes, such as the number
    of heads or which module is active.

    :param tower: a tower, or a whole model.
    :return: name, class and attributes of every layer.
    """
    plain = (bool, int, float, str, tuple, type(None))
    return [
        (name, type(module).__qualname__, sorted((k, v) for k, v in vars(module).items() if _is_setting(k, v, plain)))
        for name, module in _layers(tower)
    ]


def _layers(tower: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All layers by name, those of modules at rest among them."""
    for name, module in tower.named_modules():
        yield name, module
        if isinstance(module, Bank):
            yield from ((f"{name}.{of_blank}", blank) for of_blank, blank in module.named_blanks())


def _is_setting(name: str, value: Any, plain: tuple) -> bool:
    return isinstance(value, plain) and not name.startswith("_") and name != "training"


def _check(digests: torch.Tensor, features: torch.Tensor) -> str:
    found = hashlib.sha256(_raw(digests))
    found.update(_raw(features))
    return found.hexdigest()
