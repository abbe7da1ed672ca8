# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two ways to have a NIC put headers and data into different pages, as TCP zero-copy needs it.

Private to this collection. ``striding_off`` is the talk's: mlx5 without striding receive queues, for a driver
with the talk's patch. ``data_split`` is upstream's: the ring parameter tcp-data-split. On mlx5 the second
needs HW-GRO, which needs striding receive queues, so they exclude each other. The order in which mlx5 takes
the settings is that of ``_nic.plan``.

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
    (_STRIDING, False): "striding_off is to switch striding receive queues off",
    (_STRIDING, True): "HW-GRO, which data_split needs, works on striding receive queues only",
    (_COMPRESS, False): "HW-GRO, which data_split needs, excludes compressed completions",
    (_HW_GRO, False): "HW-GRO works on striding receive queues only, and striding_off switches these off",
    (_HW_GRO, True): "the driver splits only what HW-GRO receives",
    (_LRO, False): "LRO puts the data of several packets into one page",
    (_SPLIT, True): "it is what data_split asks for",
    (_SPLIT, False): "the driver keeps HW-GRO while the split is asked for",
}


def choose(
    strategy: str, driver: str, values: Mapping[str, object], asked: Mapping[str, object], xdp: bool
) -> tuple[dict[str, object], list[str]]:
    """Return the settings of a strategy, and why it cannot be.

    ``values`` is what the NIC has, ``asked`` what else is asked for; what of the strategy's own is not
    there, or fixed as it has to be, needs no setting.
    """
    if strategy not in STRATEGIES:
        return {}, [f"header_split: {strategy!r} is neither {' nor '.join(STRATEGIES)}"]
    if strategy == "striding_off":
        if _STRIDING not in values:
            return {}, [
                f"header_split: striding_off is for mlx5_core, whose private flag rx_striding_rq"
                f" {driver or 'this device'} does not have"
                + (": choose data_split" if _SPLIT in values else ": leave it out")
            ]
        wanted = {_STRIDING: False, _HW_GRO: False, _LRO: False, _SPLIT: False}
    else:
        if _SPLIT not in values:
            other = ": choose striding_off" if _STRIDING in values else ": leave it out"
            return {}, [
                f"header_split: data_split needs a driver that reports tcp-data-split, which"
                f" {driver or 'this device'} does not{other}"
            ]
        if xdp:
            return {}, [
                "header_split: data_split and an XDP program exclude each other, as XDP wants a packet in one"
                " piece: detach the program first (ip link set dev NIC xdp off)"
            ]
        wanted = {_SPLIT: True, _LRO: False}
        if _STRIDING in values:
            wanted.update({_STRIDING: True, _COMPRESS: False, _HW_GRO: True})
    wanted = {setting: value for setting, value in wanted.items() if setting in values}
    problems = [
        f"header_split: {strategy} needs {setting} {'on' if value else 'off'}, but {asked[setting]} is asked"
        f" for: {_REASONS[setting, value]}"
        for setting, value in wanted.items()
        if setting in asked and asked[setting] != value
    ]
    return dict(wanted), problems
