"""Makes documents with the word `POISONstage` deadly to the process that works on them there.

Python imports this file first in every process that has its folder in PYTHONPATH: the job, its
workers and what looks for the documents. LEXBEAM_TEST_POISON names the stages and what happens
there: `tokenize:SIGSEGV,extract:hang`.
"""

import importlib.abc
import importlib.util
import os
import signal
import sys
import time

# Of each stage a module, the name of a function (or method) in it, and which argument has texts.
TARGETS = {
    "plan": ("lexbeam.transforms.splits", "plan_layout", None),
    "tokenize": ("lexbeam.models.tokens", "Tokenizer.tokenize", 1),
    "count": ("lexbeam.models.keyphrase_candidates", "find_candidates", 0),
    "bow": ("lexbeam.models.vocabulary", "Vocabulary.bag_of_words", 1),
    "encode": ("lexbeam.models.encoder", "Encoder.encode_counted", 1),
    "extract": ("lexbeam.models.features", "document_features", 0),
}
EFFECTS = dict(
    pair.split(":") for pair in os.environ.get("LEXBEAM_TEST_POISON", "").split(",") if pair
)


def deadly(function, argument, stage):
    """The function, but for texts that hold the word."""

    def wrapped(*args, **keywords):
        texts = f"poison{stage}" if argument is None else args[argument]
        texts = texts.to_pylist() if hasattr(texts, "to_pylist") else texts
        if f"poison{stage}" in str(texts).lower():
            if EFFECTS[stage] == "hang":
                time.sleep(3600)
            os.kill(os.getpid(), getattr(signal, EFFECTS[stage]))
            time.sleep(3600)
        return function(*args, **keywords)

    return wrapped


class Loader(importlib.abc.Loader):
    """Loads the module as ever, and then puts the deadly function into its place."""

    def __init__(self, loader, stage):
        self.loader = loader
        self.stage = stage

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        _, name, argument = TARGETS[self.stage]
        *owners, name = name.split(".")
        owner = module
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, name, deadly(getattr(owner, name), argument, self.stage))


class Finder(importlib.abc.MetaPathFinder):
    """Finds the one module of a stage."""

    def __init__(self, stage):
        self.stage = stage

    def find_spec(self, name, path, target=None):
        if name != TARGETS[self.stage][0]:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader = Loader(spec.loader, self.stage)
        return spec


for each in EFFECTS:
    sys.meta_path.insert(0, Finder(each))
