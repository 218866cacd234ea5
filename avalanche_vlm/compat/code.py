"""The code that comes with a model, which transformers runs or does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any


@contextmanager
def code_of_models(trusted: bool = False) -> Iterator[None]:
    """Decide whether transformers runs code that comes with a model, where it would ask on the terminal.

    Open_clip builds tokenizers and text towers without a word on trust. Transformers' only switch for all of them is
    how many seconds it waits for the answer: with 0 it does not ask and raises ``ValueError``. There is none for yes,
    so that the classes which open_clip calls are given the word.

    :param trusted: whether such code may run.
    """
    try:
        from open_clip import hf_model
        from transformers import AutoTokenizer, dynamic_module_utils
    except ImportError:
        yield
        return
    with ExitStack() as changed:
        before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
        changed.callback(setattr, dynamic_module_utils, "TIME_OUT_REMOTE_CODE", before)
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
        for kind in (hf_model.AutoConfig, hf_model.AutoModel, AutoTokenizer) if trusted else ():
            for name in filter(partial(hasattr, kind), ("from_pretrained", "from_config")):
                changed.callback(_put_back, kind, name, vars(kind).get(name))
                setattr(kind, name, staticmethod(partial(getattr(kind, name), trust_remote_code=True)))
        yield


def _put_back(kind: type, name: str, own: Any) -> None:
    if own is None:
        delattr(kind, name)
    else:
        setattr(kind, name, own)
