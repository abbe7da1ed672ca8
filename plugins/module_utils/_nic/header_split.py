# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strategies for header split: headers and data in different pages, as TCP zero-copy requires.

``striding_off`` is for a mlx5 driver with the talk's patch: it turns striding receive queues off.
``data_split`` is upstream's ring parameter tcp-data-split. On mlx5 the latter needs HW-GRO, which needs
striding receive queues, so the strategies exclude each other. ``_nic.plan`` has the order that mlx5 requires.

Sources: set_pflag_rx_striding_rq(), mlx5e_modify_rx_cqe_compression_locked() and
mlx5e_ethtool_set_tcp_data_split() of drivers/net/ethernet/mellanox/mlx5/core/en_ethtool.c,
mlx5e_fix_features() of en_main.c there; ethnl_set_rings() of net/ethtool/rings.c; Linux 7.3 and 6.12.
"""

from __future__ import annotations

from collections.abc import Mapping

STRATEGIES = ("striding_off", "data_split")

_STRIDING, _COMPRESS = "priv_flags.rx_striding_rq", "priv_flags.rx_cqe_compress"
_HW_GRO, _LRO, _SPLIT = "features.rx-gro-hw", "features.rx-lro", "rings.tcp-data-split"

_REASONS = {
    (_STRIDING, False): "striding_off turns striding receive queues off",
    (_STRIDING, True): "HW-GRO, which data_split needs, requires striding receive queues",
    (_COMPRESS, False): "HW-GRO, which data_split needs, excludes compressed completions",
    (_HW_GRO, False): "HW-GRO requires striding receive queues, which striding_off turns off",
    (_HW_GRO, True): "the driver splits only packets that HW-GRO receives",
    (_LRO, False): "LRO puts the data of several packets into one page",
    (_SPLIT, True): "data_split turns it on",
    (_SPLIT, False): "the driver keeps HW-GRO on while the split is on",
}


def choose(
    strategy: str, driver: str, values: Mapping[str, object], requested: Mapping[str, object], xdp: bool
) -> tuple[dict[str, object], list[str]]:
    """Return the settings of a strategy, and errors if the NIC or another request excludes it.

    ``values`` are the NIC's settings, ``requested`` the other requested ones. Settings that the NIC does not
    have are omitted.
    """
    if strategy not in STRATEGIES:
        return {}, [f"header_split: {strategy!r} is neither {' nor '.join(STRATEGIES)}"]
    if strategy == "striding_off":
        if _STRIDING not in values:
            return {}, [
                f"header_split: striding_off needs mlx5_core with the private flag rx_striding_rq, which"
                f" {driver or 'this device'} does not have"
                + (": choose data_split" if _SPLIT in values else ": remove it")
            ]
        settings = {_STRIDING: False, _HW_GRO: False, _LRO: False, _SPLIT: False}
    else:
        if _SPLIT not in values:
            other = ": choose striding_off" if _STRIDING in values else ": remove it"
            return {}, [
                f"header_split: data_split needs a driver that reports tcp-data-split, which"
                f" {driver or 'this device'} does not{other}"
            ]
        if xdp:
            return {}, [
                "header_split: data_split and an XDP program exclude each other, as XDP needs a packet in one"
                " buffer: detach the program first (ip link set dev NIC xdp off)"
            ]
        settings = {_SPLIT: True, _LRO: False}
        if _STRIDING in values:
            settings.update({_STRIDING: True, _COMPRESS: False, _HW_GRO: True})
    settings = {setting: value for setting, value in settings.items() if setting in values}
    problems = [
        f"header_split: {strategy} needs {setting} {'on' if value else 'off'}, but {requested[setting]} is"
        f" requested: {_REASONS[setting, value]}"
        for setting, value in settings.items()
        if setting in requested and requested[setting] != value
    ]
    return dict(settings), problems
