# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encode objects of the model as JSON, and decode them again.

An object becomes a dictionary of the fields that differ from their defaults, so that fields that are added
later do not change what is stored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from .model import (
    Backend,
    CidrSelector,
    Expression,
    HostSelector,
    Pod,
    PodSelector,
    Policy,
    Ports,
    Rule,
    Selector,
    Service,
)

Json = Any
_T = TypeVar("_T")
_SELECTORS: Mapping[str, type[Selector]] = {"pod": PodSelector, "cidr": CidrSelector, "host": HostSelector}
_TEXT = (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)
_KINDS = {kind: name for name, kind in _SELECTORS.items()}


def encode(value: Any) -> Json:
    """Return an object of the model, or a value of a field, as JSON."""
    if isinstance(value, (str, int, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return [encode(one) for one in value]
    if isinstance(value, frozenset):
        return sorted((encode(one) for one in value), key=str)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, _TEXT):
        return str(value)
    found: dict[str, Json] = {"selector": _KINDS[type(value)]} if type(value) in _KINDS else {}
    for name, default in _defaults(type(value)):
        one = getattr(value, name)
        if one != default:
            found[name] = encode(one)
    return found


_DEFAULTS: dict[type, list[tuple[str, Any]]] = {}


def _defaults(kind: type) -> list[tuple[str, Any]]:
    """Return the names and defaults of the fields; a field without default never equals its one."""
    if kind not in _DEFAULTS:
        _DEFAULTS[kind] = [
            (one.name, one.default if one.default_factory is MISSING else one.default_factory())
            for one in fields(kind)
        ]
    return _DEFAULTS[kind]


def decode(kind: type[_T], raw: Json) -> _T:
    """Return the object of the model that ``encode`` has encoded."""
    decoders = _DECODERS.get(kind, {})
    return kind(**{name: decoders.get(name, _same)(value) for name, value in raw.items()})


def _same(raw: Json) -> Any:
    return raw


def _object(kind: type) -> Callable[[Json], Any]:
    return lambda raw: decode(kind, raw)


def _tuple(decoder: Callable[[Json], Any]) -> Callable[[Json], Any]:
    return lambda raw: tuple(decoder(one) for one in raw)


def _optional(decoder: Callable[[Json], Any]) -> Callable[[Json], Any]:
    return lambda raw: None if raw is None else decoder(raw)


def _set(decoder: Callable[[Json], Any]) -> Callable[[Json], Any]:
    return lambda raw: frozenset(decoder(one) for one in raw)


def _selector(raw: Json) -> Selector:
    fields_ = {**raw}
    return decode(_SELECTORS[fields_.pop("selector")], fields_)


def _selected(raw: Json) -> tuple[Selector, int, int]:
    return _selector(raw[0]), raw[1], raw[2]


_DECODERS: Mapping[type, Mapping[str, Callable[[Json], Any]]] = {
    Pod: {"addresses": _tuple(ipaddress.ip_address)},
    Expression: {"values": frozenset},
    PodSelector: {"labels": _set(tuple), "expressions": _tuple(_object(Expression)), "names": frozenset},
    CidrSelector: {"network": ipaddress.ip_network, "excluded": _set(ipaddress.ip_network)},
    Rule: {"peers": _tuple(_selector), "ports": _tuple(_object(Ports))},
    Policy: {"subject": _selector, "rules": _tuple(_object(Rule)), "defaults": tuple},
    Backend: {"address": ipaddress.ip_address},
    Service: {
        "address": ipaddress.ip_address,
        "backends": _tuple(_object(Backend)),
        "selected": _tuple(_selected),
        "external": _optional(_tuple(_object(Backend))),
        "sources": _optional(_tuple(ipaddress.ip_network)),
    },
}
