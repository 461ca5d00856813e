"""Turning the parameter names that people's checkpoints use into ours.

Ours are the public TopFormer and PVT names below ``backbone.``, mmsegmentation's ``neck.`` and
``decode_head.``, and ``head.`` for classifiers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mscsa_deploy.core.config import Config, read_toml
from mscsa_deploy.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from pathlib import Path

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "net.", "ema_model.")
OWN_ROOTS = ("backbone.", "neck.", "decode_head.", "head.")
# Parts of training set-ups that are no part of the network.
FOREIGN = re.compile(r"^(auxiliary_head\.|data_preprocessor\.|criterion\.|loss|n_averaged$|ema_[^.]*$)")

Substitution = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def _stage(template: str) -> Callable[[re.Match[str]], str]:
    """A replacement that counts stages from 1 where the source counts from 0; ``{s}`` is the stage."""
    return lambda match: template.format(s=int(match[1]) + 1)


TIMM: tuple[Substitution, ...] = (
    (re.compile(r"^patch_embed\."), "patch_embed1."),
    (re.compile(r"^stages\.(\d+)\.downsample\."), _stage("patch_embed{s}.")),
    (re.compile(r"^stages\.(\d+)\.blocks\."), _stage("block{s}.")),
    (re.compile(r"^stages\.(\d+)\.norm\."), _stage("norm{s}.")),
    (re.compile(r"\.mlp\.dwconv\.(?=weight|bias)"), ".mlp.dwconv.dwconv."),
)
TRANSFORMERS: tuple[Substitution, ...] = (
    (
        re.compile(r"^(?:pvt_v2\.)?encoder\.layers\.(\d+)\.patch_embedding\.layer_norm\."),
        _stage("patch_embed{s}.norm."),
    ),
    (re.compile(r"^(?:pvt_v2\.)?encoder\.layers\.(\d+)\.patch_embedding\."), _stage("patch_embed{s}.")),
    (re.compile(r"^(?:pvt_v2\.)?encoder\.layers\.(\d+)\.blocks\."), _stage("block{s}.")),
    (re.compile(r"^(?:pvt_v2\.)?encoder\.layers\.(\d+)\.layer_norm\."), _stage("norm{s}.")),
    (re.compile(r"\.layer_norm_(\d)\."), r".norm\1."),
    (re.compile(r"\.attention\.query\."), ".attn.q."),
    (re.compile(r"\.attention\.spatial_reduction\."), ".attn.sr."),
    (re.compile(r"\.attention\.layer_norm\."), ".attn.norm."),
    (re.compile(r"\.attention\."), ".attn."),
    (re.compile(r"\.mlp\.dense(\d)\."), r".mlp.fc\1."),
    (re.compile(r"^classifier\."), "head."),
)
MMPRETRAIN: tuple[Substitution, ...] = ((re.compile(r"^head\.fc\."), "head."),)


class Rename(Config, frozen=True):
    """One rule of a key map: `pattern` is a regular expression, `replacement` may use its groups."""

    pattern: str
    replacement: str


class _KeyMap(Config, frozen=True):
    rename: list[Rename]


@dataclass(frozen=True)
class Named:
    """Tensors under our names.

    Args:
        tensors: By our name.
        origins: The name each had in the file.
        layout: Whose names they were.
        ignored: Names in the file that belong to training only.
        unused_rules: Patterns of the key map that matched nothing.
    """

    tensors: dict[str, Tensor]
    origins: dict[str, str]
    layout: str
    ignored: tuple[str, ...]
    unused_rules: tuple[str, ...]


def read_key_map(path: Path) -> tuple[Rename, ...]:
    """The rules of a TOML key map: ``[[rename]]`` tables with `pattern` and `replacement`.

    Raises:
        UserError: The file cannot be read or a pattern is no regular expression.
    """
    rules = tuple(read_toml(path, _KeyMap).rename)
    for rule in rules:
        try:
            compiled = re.compile(rule.pattern)
            # Unknown groups show only when a replacement is parsed against its pattern.
            re.compile(f"(?:{rule.pattern})|").sub(rule.replacement, "")
        except (re.error, IndexError) as error:
            raise UserError(f"'{path}': rename '{rule.pattern}' to '{rule.replacement}': {error}") from error
        assert compiled.groups >= 0
    return rules


def to_own_names(tensors: Mapping[str, Tensor], rules: Iterable[Rename] = ()) -> Named:
    """Tensors of a checkpoint under our names.

    The key map goes first, on the names in the file; a name it makes empty is dropped. Then wrappers such as
    ``module.`` are cut off and the names of timm, transformers and mmpretrain are translated.

    Raises:
        CheckpointError: Two names of the file become the same.
    """
    origins, unused = _apply_rules(tensors, tuple(rules))
    bare = {_unwrap(name): origin for name, origin in origins.items()}
    if len(bare) != len(origins):
        _refuse_collision([(_unwrap(name), origin) for name, origin in origins.items()])
    ignored = [origin for name, origin in bare.items() if FOREIGN.match(name)]
    bare = {name: origin for name, origin in bare.items() if not FOREIGN.match(name)}
    layout, substitutions = _layout(bare)
    pairs = [(_own_name(name, substitutions), origin) for name, origin in bare.items()]
    if layout == "transformers":
        return _merge_keys_values(tensors, pairs, ignored, unused)
    _refuse_collision(pairs)
    named = dict(pairs)
    values = {name: tensors[origin] for name, origin in named.items()}
    return Named(values, named, layout, tuple(ignored), unused)


def _apply_rules(names: Iterable[str], rules: tuple[Rename, ...]) -> tuple[dict[str, str], tuple[str, ...]]:
    """{new name: name in the file} and the patterns that matched nothing."""
    used: set[str] = set()
    pairs = []
    for origin in names:
        name = origin
        for rule in rules:
            name, count = re.subn(rule.pattern, rule.replacement, name)
            if count:
                used.add(rule.pattern)
        if name:
            pairs.append((name, origin))
    _refuse_collision(pairs)
    return dict(pairs), tuple(rule.pattern for rule in rules if rule.pattern not in used)


def _refuse_collision(pairs: list[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for name, origin in pairs:
        if name in seen:
            raise CheckpointError(
                f"'{seen[name]}' and '{origin}' of the checkpoint both become '{name}'",
                hint='drop one of them with a key map (replacement = "")',
            )
        seen[name] = origin


def _unwrap(name: str) -> str:
    while prefix := next((each for each in WRAPPERS if name.startswith(each)), None):
        name = name[len(prefix) :]
    return name


def _layout(names: Iterable[str]) -> tuple[str, tuple[Substitution, ...]]:
    """Whose names these are, and how to translate them."""
    bodies = [name.removeprefix("backbone.") for name in names]
    if any("patch_embedding." in body for body in bodies):
        return "transformers", TRANSFORMERS
    if any(body.startswith("stages.") for body in bodies):
        return "timm", (*TIMM, *MMPRETRAIN)
    if any(name.startswith("backbone.") for name in names):
        return "mmsegmentation", MMPRETRAIN
    return "bare", MMPRETRAIN


def _own_name(name: str, substitutions: tuple[Substitution, ...]) -> str:
    body = name.removeprefix("backbone.")
    for pattern, replacement in substitutions:
        body = pattern.sub(replacement, body)
    if body.startswith(OWN_ROOTS[1:]):
        return body
    return f"backbone.{body}"


def _merge_keys_values(
    tensors: Mapping[str, Tensor], pairs: list[tuple[str, str]], ignored: list[str], unused: tuple[str, ...]
) -> Named:
    """Transformers keeps keys and values apart where the public code has one ``kv`` projection."""
    named = dict(pairs)
    values, origins = {}, {}
    for name, origin in named.items():
        if ".attn.value." in name and name.replace(".value.", ".key.") in named:
            continue
        partner = named.get(name.replace(".attn.key.", ".attn.value."))
        if ".attn.key." in name and partner is not None:
            merged = name.replace(".attn.key.", ".attn.kv.")
            values[merged] = torch.cat([tensors[origin], tensors[partner]])
            origins[merged] = origin
        else:
            values[name], origins[name] = tensors[origin], origin
    return Named(values, origins, "transformers", tuple(ignored), unused)
