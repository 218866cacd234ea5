"""What is said of a recipe that needs more than there is."""

from __future__ import annotations

_HINTS = {
    "reference": "reference pairs: give some with reference (--reference FILE)",
    "generator": "a generator of pictures: name one with generator (--generator MODEL)",
}


def lacks(recipe: str, source: object, resource: str) -> str:
    """The sentence on a resource that a recipe needs and a source of data does not bring.

    :param recipe: name of the recipe.
    :param source: benchmark or file of the user's, as the sentence names it.
    :param resource: name of the resource.

    >>> lacks("zscl", "photos.csv", "reference")
    'recipe zscl needs what photos.csv does not bring, reference pairs: give some with reference (--reference FILE)'
    """
    return f"recipe {recipe} needs what {source} does not bring, {_HINTS[resource]}"
