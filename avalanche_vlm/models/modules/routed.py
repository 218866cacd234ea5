"""The way of samples through a pool of modules: a router chooses for each, and knows when to stay out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.compat.modules import EXTRA, ResizesOnLoad
from avalanche_vlm.models.modules.blocks import Encode, Halves
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.routers import Router


class RoutedPool(ResizesOnLoad):
    """What a :class:`~avalanche_vlm.models.VLM` is answered with at prediction: each sample by its own task's module.

    In training the module that trains works on everything. In eval mode no module is active but while its own samples
    are at work: the plain tower's features go to the router; a sample that belongs to no known task keeps them, the
    others run once more, grouped by task.

    :param pool: the modules that samples are sent to.
    :param router: places samples by their features of the plain tower. If it knows tasks already, the pool's first
        modules are theirs.
    """

    def __init__(self, pool: ModulePool, router: Router) -> None:
        super().__init__()
        self.pool = pool
        self.router = router
        self.use_task_labels = False
        """Choose by the sample's task label instead, as an oracle would. What was not trained, comes without a
        label, or had a module that was dropped gets no module."""
        self.of_label: dict[int, str] = {}
        """The module of each task label."""
        self.of_task = list(pool.names[: len(router)])
        """The module of each task of the router, by name: other modules may be added, shared and dropped."""

    def learn(self, name: str, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Let the router know the samples of a module's task.

        :param name: the module's name.
        :param features: the plain tower's features, of unit length ``[N, D]``.
        :param labels: class or caption ids ``[N]``.
        """
        self.router.fit(features, labels)
        self.of_task.append(name)

    def get_extra_state(self) -> dict[str, Any]:
        """The pool's modules and whose they are, as values that JSON has; torch asks for it."""
        return {
            "pool": self.pool.state_dict(),
            "of_task": list(self.of_task),
            "of_label": {str(label): name for label, name in self.of_label.items()},
            "use_task_labels": self.use_task_labels,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_extra_state` gave; torch calls it. Which module is active is the mode's affair."""
        self.pool.load_state_dict(state["pool"])
        self.of_task = list(state["of_task"])
        self.of_label = {int(label): name for label, name in state["of_label"].items()}
        self.use_task_labels = state["use_task_labels"]
        self.pool.activate(self.pool.current if self.training else None)

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        """Of a state without :meth:`get_extra_state`'s entry, the towers tell which modules there are."""
        if state and EXTRA not in state:
            before = list(self.pool.names)
            self.pool.take_over()
            if self.pool.names != before:
                self.of_task = list(self.pool.names)

    def train(self, mode: bool = True) -> RoutedPool:
        """In training the current module is active, otherwise none."""
        self.pool.activate(self.pool.current if mode else None)
        return super().train(mode)

    def groups(
        self,
        encode: Encode,
        images: torch.Tensor,
        task_labels: Any = None,
        halves: Callable[[], Halves | None] = lambda: None,
    ) -> Iterator[tuple[Any, torch.Tensor]]:
        """Samples that share a module, and their features; that module is active until the next group is asked for.

        Where the router chooses, every sample goes through the plain tower, and one that gets a module once more: from
        the images on, or, of a tower in two parts, through the upper one alone.

        :param encode: the image tower as it stands, images to features that are not normalised.
        :param images: ``[B, 3, H, W]``.
        :param task_labels: int or ``[B]``, read under :attr:`use_task_labels` alone.
        :param halves: gives this tower in two parts, of which modules change nothing in the lower one, or None for a
            tower that cannot be cut; called where the router chooses alone.
        :return: an index into the batch, and features ``[n, D]``, not normalised.
        """
        if self.training:
            yield slice(None), encode(images)
            return
        plain = None
        whole = Halves(lambda images: images, encode)
        if self.use_task_labels:
            # No pass comes before that of the module: there is nothing to share.
            parts, shared = whole, images
            names = self._of_labels(task_labels, len(images))
        else:
            parts = halves() or whole
            shared = parts.below(images)
            plain = parts.above(shared)
            names = self.route(F.normalize(plain, dim=-1))
        members: dict[str | None, list[int]] = {}
        for row, name in enumerate(names):
            members.setdefault(name, []).append(row)
        for name, of_name in members.items():
            rows = to_device(torch.tensor(of_name), images.device)
            if name is None and plain is not None:
                yield rows, plain[rows]
                continue
            with self.pool.using(name):
                yield rows, parts.above(shared if len(rows) == len(images) else parts.rows(shared, rows))

    def decides_by(self, task_labels: Any) -> bool:
        """Whether these task labels choose modules.

        :param task_labels: what came with the samples.
        """
        return not self.training and self.use_task_labels and isinstance(task_labels, (int, torch.Tensor))

    def of_labels(
        self, encode: Callable[[torch.Tensor], torch.Tensor], texts: torch.Tensor, task_labels: Any
    ) -> torch.Tensor:
        """Features of texts, each under the module of its sample's task label.

        :param encode: the text tower as it stands.
        :param texts: token ids ``[B, L]``.
        :param task_labels: int or ``[B]``.
        :return: features ``[B, D]``, not normalised.
        """
        names = self._of_labels(task_labels, len(texts))
        features: dict[int, torch.Tensor] = {}
        for name in dict.fromkeys(names):
            rows = [row for row, other in enumerate(names) if other == name]
            with self.pool.using(name):
                features |= dict(zip(rows, encode(texts[rows]), strict=True))
        return torch.stack([features[row] for row in range(len(texts))])

    def route(self, features: torch.Tensor) -> list[str | None]:
        """The module of each sample, None for the pretrained model: also where the module was dropped.

        :param features: the plain tower's features, of unit length ``[B, D]``.
        """
        if len(self.router) == 0:
            return [None] * len(features)
        route = self.router.score(features)
        chosen = torch.where(route.is_out_of_distribution, -1, route.task).tolist()
        there = set(self.pool.names)
        names = [name if name in there else None for name in self.of_task]
        return [None if task < 0 else names[task] for task in chosen]

    def turns_away(self, features: torch.Tensor) -> list[bool | None]:
        """Whether samples that no module answers are out of distribution, each in the router's judgement: True but for
        those whose module was dropped, and None while the router knows no task.

        :param features: the plain tower's features of such samples, of unit length ``[n, D]``.
        """
        if len(self.router) == 0:
            return [None] * len(features)
        if set(self.of_task) <= set(self.pool.names):
            return [True] * len(features)
        return self.router.score(features).is_out_of_distribution.tolist()

    def _of_labels(self, task_labels: Any, n: int) -> list[str | None]:
        if not isinstance(task_labels, (int, torch.Tensor)):
            return [None] * n
        labels = on_host(torch.as_tensor(task_labels)).expand(n).tolist()
        there = set(self.pool.names)
        names = {label: name for label, name in self.of_label.items() if name in there}
        return [names.get(label) for label in labels]
