"""Places in a model that one method at a time may take, and who has taken them."""

from __future__ import annotations

from dataclasses import dataclass, field

from avalanche_vlm.errors import InputError

PLACES = {
    "routed": "image path",
    "image_path": "image path",
    "text_path": "text path",
    "class_head": "class head",
}
"""The slots that a model has, and the place that each of them is: two slots may be one place."""

AUXILIARY = "auxiliary."
"""What slots of auxiliary modules begin with; the module's name follows."""


def place_of(slot: str) -> str:
    """The place that a slot is, in words.

    >>> place_of("routed"), place_of("auxiliary.projector")
    ('image path', "auxiliary module 'projector'")

    :param slot: one of :data:`PLACES`, or ``"auxiliary."`` with a name.
    :raises InputError: for another slot.
    """
    if isinstance(slot, str) and slot.startswith(AUXILIARY) and slot != AUXILIARY:
        if "." in slot.removeprefix(AUXILIARY):
            raise InputError(f"the name of an auxiliary module has no dot, unlike {slot.removeprefix(AUXILIARY)!r}")
        return f"auxiliary module {slot.removeprefix(AUXILIARY)!r}"
    if slot not in PLACES:
        raise InputError(f"a VLM has the slots {', '.join(PLACES)} and {AUXILIARY}NAME, not {slot!r}")
    return PLACES[slot]


@dataclass
class Slots:
    """Who has taken which place of a model.

    A class head answers from features, so it stands on an image path: on the plain one, or on one that the same method
    has put there. Heads and image paths of two methods never meet.

    :param owners: who has taken a place, in words, by the place's name.
    :param plain: places that are taken in order to stay as they are.
    :param used: the slot in which a place was taken, by the place's name.
    """

    owners: dict[str, str] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)
    used: dict[str, str] = field(default_factory=dict)

    def check(self, slot: str, owner: str, changes: bool = True) -> None:
        """Whether a method can take a slot.

        :param slot: the slot that it asks for.
        :param owner: who asks, in words.
        :param changes: False for a method that needs the place to stay as it is.
        :raises InputError: if it cannot; the sentence names both methods.
        """
        place = place_of(slot)
        advice = f"give {owner} a model of its own"
        if place in self.owners:
            raise InputError(f"the model's {place} is taken by {self.owners[place]}, and {owner} needs it: {advice}")
        path, head = self.owners.get("image path"), self.owners.get("class head")
        if place == "class head" and path not in (None, owner) and "image path" not in self.plain:
            raise InputError(
                f"the model's image path is taken by {path}, and the class head of {owner} needs features that stay "
                f"what they are: {advice}"
            )
        if place == "image path" and changes and head not in (None, owner):
            raise InputError(
                f"the model's class head is taken by {head} and needs features that stay what they are, but {owner} "
                f"changes the image path: {advice}"
            )

    def take(self, slot: str, owner: str, changes: bool = True) -> None:
        """Note that a method has a slot, which :meth:`check` lets it have."""
        self.check(slot, owner, changes)
        self.owners[place_of(slot)] = owner
        self.used[place_of(slot)] = slot
        if not changes:
            self.plain.add(place_of(slot))

    def leave(self, slot: str) -> None:
        """Note that nobody has a slot any more. A place that was taken in another slot stays taken."""
        place = place_of(slot)
        if self.used.get(place) == slot:
            del self.used[place], self.owners[place]
            self.plain.discard(place)
