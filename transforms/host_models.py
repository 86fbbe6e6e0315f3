"""Encoders on this host: a worker finds, or fetches once, the model that the driver resolved."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from lexbeam.models import catalogue
from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder_spec import ModelError, ModelSpec, read_spec
from lexbeam.transforms import host_cache


def resolve_model(model_id: str, *, fetch: bool = False) -> ModelSpec:
    """As catalogue.resolve_model, which see; `model_id` may be a folder's URL as well.

    Raises:
        ModelError: there is no such model, or it cannot be used.
    """
    if "://" not in model_id:
        return catalogue.resolve_model(model_id, fetch=fetch)
    try:
        folder = host_cache.copy_of_folder(model_id, _is_of_model)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {model_id!r}: {error}") from error
    return read_spec(model_id, Path(folder), catalogue.cache_dir())


def _is_of_model(name: str) -> bool:
    """Whether a file of a Hugging Face folder is needed: not the same weights in other formats."""
    folder, _, base = name.rpartition("/")
    is_weights = fnmatch(base, "*.safetensors")
    return any(fnmatch(base, pattern) for pattern in catalogue.HUB_FILES) and not (
        folder and is_weights
    )


@lru_cache(maxsize=4)
def model_on_host(spec: ModelSpec, config: EncoderConfig) -> ModelSpec:
    """The model where it lies on this host, ready to be loaded as `config` says.

    Of the processes of a host one fetches and converts it, and the others wait for that.

    Raises:
        ModelError: it cannot be had here, or has other weights than the driver's.
    """
    from lexbeam.models.encoder import prepare_encoder

    with host_cache.taking_turns(f"model {spec.fingerprint}"):
        here = replace(spec, directory=directory_on_host(spec))
        prepare_encoder(here, config)
    return here


def directory_on_host(spec: ModelSpec) -> Path:
    """Where a model's files lie on this host; they are fetched where they are not here.

    Raises ModelError where it cannot be had, or has other weights than the driver's.
    """
    if spec.directory.is_dir():
        # A folder of this name: the driver's own, or what an image was built with.
        found = read_spec(spec.name, spec.directory, catalogue.cache_dir())
        if found.fingerprint == spec.fingerprint:
            return spec.directory
    found = resolve_model(spec.name, fetch=True)
    if found.fingerprint != spec.fingerprint:
        raise ModelError(
            f"model {spec.name!r}: this host has other weights than the driver "
            f"(fingerprint {found.fingerprint} in {found.directory}, {spec.fingerprint} there)"
        )
    return found.directory
