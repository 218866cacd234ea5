"""Plain words for what open_clip, torch and the model hub raise when a model cannot be had."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

from avalanche_vlm.errors import InputError

EXTRA = "hf"
"""The extra of our distribution that brings the tokenizers and text towers of Hugging Face's."""

_OFFLINE = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectTimeout", "ConnectError"}


def check_packages(name: str) -> None:
    """See whether the packages that a model needs are there, before anything is downloaded.

    :param name: architecture of open_clip's.
    :raises InputError: naming the extra to install.
    """
    from open_clip import factory

    if name.startswith(("hf-hub:", "local-dir:")):
        return
    text: dict[str, Any] = (factory.get_model_config(name) or {}).get("text_cfg", {})
    wants = text.get("hf_tokenizer_name") or text.get("hf_model_name") or "siglip" in name.lower()
    if wants and find_spec("transformers") is None:
        raise InputError(_lacks_package(name, "transformers"))


def explain(name: str, tag: str | None, image_size: int | None, error: Exception, sought: str) -> str:
    """One sentence for what open_clip or the hub raised.

    :param name: name of the model that was asked for.
    :param tag: tag or file of its weights, None for the weights that the name stands for.
    :param image_size: size that was asked for, None for the architecture's own.
    :param error: what was raised.
    :param sought: what was on its way then, the model's ``weights``, its ``tokenizer`` or other ``files``.
    """
    seen: BaseException | None = error
    names = set()
    while seen is not None:
        if isinstance(seen, ModuleNotFoundError) and seen.name:
            return _lacks_package(name, seen.name)
        names.add(type(seen).__name__)
        seen = seen.__cause__ or seen.__context__
    if "transformers" in str(error) and "install" in str(error).lower() and find_spec("transformers") is None:
        return _lacks_package(name, "transformers")
    if names & _OFFLINE or "URLError" in names or re.search(r"[Cc]ouldn't connect", str(error)):
        wanted = f"{name} ({tag})" if tag and sought == "weights" else name
        call = "get_tokenizer" if sought == "tokenizer" else "create_model"
        file = ', or download the checkpoint file and pass its path as create_vlm(name, pretrained="/path/to/file")'
        return (
            f"the {sought} of {wanted} {'is' if sought == 'tokenizer' else 'are'} not on this machine and the model "
            f"hub cannot be reached: on a machine with a network, run open_clip.{call} with the same arguments and "
            f"copy its cache folder here{file if sought == 'weights' else ''}"
        )
    start = f"could not load {name}{f' with weights {tag}' if tag else ''}: "
    if "loading state_dict" in str(error):
        resized = "; these weights cannot be used at another image_size" if image_size and _of_positions(error) else ""
        return f"{start}they are those of another architecture: {mismatch(error)}{resized}"
    if tag and tag.endswith((".npz", ".npy")):
        return (
            f"{start}the file is a numpy archive, which is read as weights of a SigLIP model in big_vision's format, "
            "and it does not hold those of this architecture: convert it to a state dict or safetensors"
        )
    if image_size and "sizes should be greater than 0" in str(error):  # torch's, on positions of no patches
        return f"{start}image_size={image_size} is less than a patch of its image tower"
    if "trust_remote_code" in str(error):  # transformers advises to set it
        return (
            f"{start}code that comes with it would have to run, and it may only where you say so: "
            "trust_remote_code=True (--trust-remote-code) lets it do on this machine all that you may do"
        )
    if isinstance(error, AssertionError):  # open_clip's, on positional embeddings
        return f"{start}they are those of another architecture ({error})"
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return start + lines[0]


def mismatch(error: Exception) -> str:
    """What torch's error on a state dict says, without its hundreds of names.

    :param error: raised by ``load_state_dict``.

    >>> mismatch(RuntimeError('Error(s) in loading: Missing key(s) in state_dict: "a", "b".'))
    'it lacks 2 tensors (a, ...)'
    """
    text = str(error)
    parts = []
    for what, words in (("Missing", "it lacks"), ("Unexpected", "it has no use for")):
        listed = re.search(rf"{what} key\(s\) in state_dict: (.*)", text)
        if listed:
            keys = re.findall(r'"([^"]+)"', listed[1])
            some = f"{keys[0]}, ..." if len(keys) > 1 else keys[0]
            parts.append(f"{words} {len(keys)} tensor{'s' * (len(keys) > 1)} ({some})")
    sizes = re.findall(r"size mismatch for ([\w.]+):.*?torch\.Size\((\[[^]]*\]).*?torch\.Size\((\[[^]]*\])", text)
    if sizes:
        key, there, here = sizes[0]
        more = f", and {len(sizes) - 1} more" if len(sizes) > 1 else ""
        parts.append(f"{key} is {there} where {here} is needed{more}")
    return "; ".join(parts) or text.splitlines()[0]


def _of_positions(error: Exception) -> bool:
    return bool(re.search(r"size mismatch for \S*(positional|pos)_embed", str(error)))


def _lacks_package(name: str, package: str) -> str:
    return f"{name} needs the package {package}, which is not installed: pip install 'avalanche-vlm[{EXTRA}]'"
