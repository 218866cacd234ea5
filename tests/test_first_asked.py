"""What holds in a process in which nothing was asked for before: one process, which is asked everything in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from avalanche_vlm.catalogue import catalogue

MODELS = """
import os, sys
import open_clip, torch
if os.fork() == 0:  # what it imports is no concern of those that are asked behind it
    import importlib, pkgutil, avalanche_vlm.models as models
    for of in pkgutil.walk_packages(models.__path__, models.__name__ + '.'):
        'pretrain' in of.name or importlib.import_module(of.name)
    above = ('training', 'evaluation', 'artifacts', 'studies', 'report', 'commands')
    above = tuple(f'avalanche_vlm.{layer}' for layer in above)
    print([name for name in sys.modules if name.startswith(above)], flush=True)
    os._exit(0)
os.wait()
"""
SETTINGS = """
import functools, json, re, threading
from avalanche_vlm.memory.settings import settings_of
class G:
    def __call__(self, key): pass
g = G(); g.names = {'a', 'b', 'c', 'd'}; g.lock = threading.Lock(); g.rng = object()
settings = json.dumps(settings_of(functools.partial(g, lambda x: x)))
"""
OTHERS = """
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers.registry import register_router
try: register_router('kmeans')(type('Mine', (), {}))
except InputError as error: taken = str(error)

import avalanche_vlm.training.recipes.fusion.adapter, avalanche_vlm.training.recipes.adaptation.prompts
from avalanche_vlm.training import recipes
found = []
threads = [threading.Thread(target=lambda: found.append(recipes.list())) for _ in range(6)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(json.dumps({'settings': settings, 'taken': taken, 'recipes': found}))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told():
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", MODELS + SETTINGS + OTHERS]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    above, answers = run.stdout.splitlines()[-2:]
    return {**json.loads(answers), "above models": above}


def test_models_import_nothing_above_them(told):
    assert told["above models"] == "[]"


def test_settings_do_not_change_with_the_process(told):
    here: dict = {"__name__": "__main__"}
    exec(SETTINGS, here)
    assert told["settings"] == here["settings"] and "names" in here["settings"]


def test_names_of_shipped_routers_are_taken_from_the_start(told):
    assert "a router called 'kmeans' is registered already" in told["taken"]


def test_all_threads_that_ask_first_get_all_recipes_in_the_order_of_the_families(told):
    """Whatever was imported first: here two files of the last families."""
    shipped = [line.name for line in catalogue()]
    assert told["recipes"] == [shipped] * 6
