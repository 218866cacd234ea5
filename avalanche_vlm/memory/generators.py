"""Pictures made of prompts: replay without a buffer.

A generator is a tool, as the pretrained model is: it keeps nothing of the stream. It has no ``stored()`` and counts in
no account of what is kept between tasks. What a recipe keeps of its pictures does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from avalanche_vlm._content import folder_digest
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.settings import settings_of


@runtime_checkable
class Generator(Protocol):
    """Anything that draws what prompts say."""

    def __call__(self, prompts: Sequence[str], seed: int) -> torch.Tensor:
        """One picture per prompt.

        :param prompts: N texts that say what to draw.
        :param seed: seed of the pictures, at least 0; the same prompts and seed give the same pictures.
        :return: uint8 ``[N, 3, H, W]``, with one H and W for all calls.
        """
        ...


class DiffusersGenerator:
    """A text-to-image pipeline of Hugging Face's ``diffusers``, loaded at the first call.

    Every picture has random numbers of its own, drawn on the CPU: it depends on its prompt, the seed and its index, not
    on the batch that it is made in. A pipeline with a safety checker gives a black picture for what it finds unsafe;
    such pictures are left as they are (pass a folder without a ``safety_checker`` if your prompts set it off).

    The numbers below are our defaults, customary for Stable Diffusion v1.5.

    :param model: a name on the Hugging Face hub, or a folder in which such a model lies.
    :param size: side in pixels that pictures are resized to, so that they are stored as the VLM takes them; None
        leaves them as the pipeline makes them. They are always generated at the pipeline's own size.
    :param steps: denoising steps, at least 1.
    :param guidance_scale: scale of classifier-free guidance, at least 0.
    :param device: where the pipeline runs.
    :param batch_size: pictures made at a time, at least 1.
    :raises InputError: for a bad setting; at the first call, if ``diffusers`` is not installed or the model is not
        there.
    """

    def __init__(
        self,
        model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        *,
        size: int | None = None,
        steps: int = 50,
        guidance_scale: float = 7.5,
        device: str | torch.device = "cpu",
        batch_size: int = 8,
    ) -> None:
        for name, value in (("size", size), ("steps", steps), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise InputError(f"{name} is 1 or more, not {value}")
        if guidance_scale < 0:
            raise InputError(f"guidance_scale is 0 or more, not {guidance_scale}")
        self.model = str(model)
        self.size = size
        self.steps = steps
        self.guidance_scale = guidance_scale
        self.device = device
        self.batch_size = batch_size
        self._pipeline: Any = None

    def __call__(self, prompts: Sequence[str], seed: int) -> torch.Tensor:
        """Uint8 ``[N, 3, H, W]`` for N prompts, at least one."""
        _check_prompts(prompts)
        if self._pipeline is None:
            self._pipeline = _load(self.model, self.device)
        pictures = []
        for start in range(0, len(prompts), self.batch_size):
            chunk = list(prompts[start : start + self.batch_size])
            made = self._pipeline(
                prompt=chunk,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                generator=[torch.Generator().manual_seed(_derived(seed, start + i)) for i in range(len(chunk))],
                output_type="pil",
            )
            pictures += [self._pixels(image) for image in made.images]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

    def _pixels(self, image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        if self.size is not None:
            image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(image)


def generator_facts(generator: Generator) -> dict[str, Any]:
    """What a generator is, for a result's protocol: its class (or function) and all its settings
    (:func:`~avalanche_vlm.memory.settings.settings_of`); of a model in a folder the content of the files. Of a model on
    a hub the name is all that is known.

    :param generator: what draws pictures of prompts.
    :return: plain JSON types.

    >>> generator_facts(DiffusersGenerator("some/model", steps=20))["steps"]
    20
    """
    facts = settings_of(generator)
    model = facts.get("model")
    if isinstance(model, str) and Path(model).is_dir():
        del facts["model"]
        facts |= {"path": model, "content": folder_digest(Path(model))}
    return facts


def _load(model: str, device: str | torch.device) -> Any:
    try:
        import diffusers

        # Weights in a pickle could run code.
        pipeline = diffusers.AutoPipelineForText2Image.from_pretrained(model, use_safetensors=True)
    except ImportError as error:  # diffusers raises it as well when transformers is missing
        raise InputError('generated images need diffusers: pip install "avalanche-vlm[generate]"') from error
    except (OSError, ValueError) as error:  # what the hub raises without a network, a file or such a model
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"the text-to-image model {model!r} cannot be loaded ({reason}): download it where there is a network, "
            "with huggingface-cli download NAME --local-dir FOLDER, and pass that folder as the model"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def generate_pairs(
    generator: Generator, prompts: Sequence[str], n: int, seed: int, *, batch_size: int = 64
) -> tuple[torch.Tensor, list[str]]:
    """Pictures with the prompts that they were made of.

    Prompts come in passes, each through all of them in an order of its own, so that the numbers of pictures of any two
    differ by one at most.

    :param generator: makes the pictures.
    :param prompts: one or more texts.
    :param n: pictures, at least 1.
    :param seed: seed of the order and of the pictures, at least 0.
    :param batch_size: prompts per call of the generator; another one gives other pictures.
    :return: uint8 ``[n, 3, H, W]`` on the CPU, and n captions.
    :raises InputError: for a bad setting, or a generator that gives something else than it should.

    >>> flat = lambda prompts, seed: torch.zeros(len(prompts), 3, 8, 8, dtype=torch.uint8)
    >>> pixels, captions = generate_pairs(flat, ["a star", "a ring"], 5, seed=0, batch_size=2)
    >>> pixels.shape, abs(captions.count("a star") - captions.count("a ring"))
    (torch.Size([5, 3, 8, 8]), 1)
    """
    _check_prompts(prompts)
    for name, value in (("n", n), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} is 1 or more, not {value}")
    rng = np.random.default_rng(_derived(seed))
    passes = [rng.permutation(len(prompts)) for _ in range(-(-n // len(prompts)))]
    captions = [prompts[i] for i in np.concatenate(passes)[:n]]
    pixels = torch.zeros(0, dtype=torch.uint8)
    for start in range(0, n, batch_size):
        chunk = captions[start : start + batch_size]
        made = _checked(generator(chunk, _derived(seed, start // batch_size)), len(chunk))
        if start == 0:
            pixels = torch.empty(n, *made.shape[1:], dtype=torch.uint8)
        if made.shape[1:] != pixels.shape[1:]:
            raise InputError(
                f"the generator gave pictures of {list(made.shape[1:])} after others of {list(pixels.shape[1:])}"
            )
        pixels[start : start + len(chunk)] = made
    return pixels, captions


def _checked(made: Any, n: int) -> torch.Tensor:
    """What a generator gave for ``n`` prompts, if it is what it should be."""
    if not isinstance(made, torch.Tensor):
        raise InputError(f"a generator gives a uint8 tensor [N, 3, H, W], not a {type(made).__name__}")
    if made.dtype != torch.uint8:
        raise InputError(f"a generator gives uint8 pixels, not {made.dtype}")
    if made.ndim != 4 or made.shape[1] != 3:
        raise InputError(f"a generator gives pixels [N, 3, H, W], not {list(made.shape)}")
    if len(made) != n:
        raise InputError(f"the generator gave {len(made)} pictures for {n} prompts")
    return made


def _check_prompts(prompts: Sequence[str]) -> None:
    if isinstance(prompts, str) or len(prompts) == 0:
        raise InputError(f"pictures are made of a list of one or more prompts, not of {prompts!r}")


def _derived(seed: int, *index: int) -> int:
    """A seed of its own for every use, below 2 ** 32, which every library takes."""
    if seed < 0:
        raise InputError(f"a seed is a whole number from 0, not {seed}")
    return int(np.random.SeedSequence([seed, *index]).generate_state(1)[0])
