"""What holds in a process in which nothing was asked for before: one process, which is asked everything in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from avalanche_vlm.catalogue import catalogue

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
    command = [sys.executable, "-c", SETTINGS + OTHERS]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(run.stdout.splitlines()[-1])


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
