"""What users ask a trained model, as methods: the functions behind them are built on the model and go by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avalanche_vlm._registry import resolve
from avalanche_vlm.models.answers import Match, Prediction


class Answering:
    """The part of a :class:`~avalanche_vlm.models.VLM` that answers on images of a user's.

    Images are prepared by the model's eval transform and answered in eval mode without gradients. Nothing of the model
    changes, neither its mode nor its label space, and an image's answer does not depend on the others.
    """

    def predict(
        self, images: Any, labels: Sequence[str] | None = None, top_k: int = 5, **options: Any
    ) -> list[Prediction]:
        """The most probable classes of each image, as the model predicts: modules, router and class head included.

        >>> from avalanche_vlm import create_vlm
        >>> from avalanche_vlm.benchmarks.picturebook import mtil_like
        >>> image, _, _ = mtil_like(n_train=8, n_test=8).test_stream[0].dataset.eval()[0]
        >>> (found,) = create_vlm("tiny").predict(image[None], labels=["star", "heart"], top_k=1)
        >>> found.best.name in ("star", "heart"), found.best.probability > 0.5
        (True, True)

        :param images: a path, a PIL image, an array ``[H, W, C]``, a list of these, or a batch ``[B, 3, H, W]`` under
            the model's transforms.
        :param labels: names of the classes that compete (open vocabulary); None for the model's label space.
        :param top_k: classes per image at most, at least 1.
        :param options: ``templates``, prompts with ``{}`` around ``labels``, and ``batch_size`` of
            :func:`~avalanche_vlm.models.predict.predict`.
        :return: one prediction per image, in the order of the images.
        :raises InputError: if an image cannot be read, there are no classes to choose from, or a logit is no number.
        """
        ask: Callable[..., list[Prediction]] = resolve("avalanche_vlm.models.predict:predict")
        return ask(self, images, labels, top_k, **options)

    def retrieve(self, images: Any, queries: str | Sequence[str], top_k: int = 10, **options: Any) -> list[list[Match]]:
        """The images that are most similar to each text; texts longer than the context are warned of.

        :param images: images as :meth:`predict` takes them.
        :param queries: one text or several.
        :param top_k: images per text at most, at least 1.
        :param options: ``batch_size`` of :func:`~avalanche_vlm.models.retrieve.retrieve`.
        :return: a list of images for each query, the most similar first, of equally similar ones the earlier.
        :raises InputError: if an image cannot be read, or there is no query.
        """
        search: Callable[..., list[list[Match]]] = resolve("avalanche_vlm.models.retrieve:retrieve")
        return search(self, images, queries, top_k, **options)
