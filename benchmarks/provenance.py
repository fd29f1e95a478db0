"""What a result says of where it came from, without any path of the machine."""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.environment import commit, hardware, versions
from reccocktail.storage import write_json

# Where a path may begin within an argument: NAME=/a/b, /a/b:/c/d, "depth=2 readout=/a/b".
_PARTS = re.compile(r"([=:,]|\s(?=/))")


def machine(device: torch.device) -> dict[str, Any]:
    """Commit, versions and hardware, with the load that was there before."""
    return {
        "commit": commit(),
        "versions": versions(),
        "hardware": {
            **hardware(device),
            # A load well above the run's own threads means that others used the cores too.
            "load_average_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
    }


def environment(backbone: Backbone, domain: Domain) -> dict[str, Any]:
    """The machine, the backbone and the data."""
    return {
        **machine(backbone.device),
        "backbone": {
            "sha256": backbone.fingerprint.sha256,
            "architecture": backbone.fingerprint.architecture,
            "hidden_size": backbone.fingerprint.hidden_size,
            "layers": backbone.fingerprint.layers,
            "parameters": sum(p.numel() for p in backbone.model.parameters()),
            "dtype": str(backbone.model.dtype).removeprefix("torch."),
            "precision": backbone.precision,
        },
        "data": {"name": domain.name, "sha256": domain.sha256, "items": len(domain.item_ids)},
    }


def backbone_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a figure of the `environment` in a result, as far as the result says it."""
    found = result.get("backbone", {})
    names = {"backbone": "sha256", "dtype": "dtype", "precision": "precision"}
    return {name: found[key] for name, key in names.items() if key in found}


def command() -> str:
    """The program that runs and its arguments; of an absolute path only the last component."""
    words = [Path(sys.argv[0]).name]
    for word in sys.argv[1:]:
        parts = _PARTS.split(word)
        words.append("".join(Path(p).name if p.startswith("/") else p for p in parts))
    return shlex.join(words)


def write_result(file: Path, result: Mapping[str, Any]) -> None:
    """Write the JSON of a program, with the command that made it."""
    write_json(file, {**result, "command": command()})
