# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Echo packets, IP counters, and results of bursts."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._measure import probe
from ansible_collections.podnet.datapath.plugins.module_utils._measure.probe import (
    HostCounters,
    Probe,
    ProbeError,
    ProbeResult,
    checksum,
    echo_request,
    parse_echo_reply,
)

# /proc/net/snmp of Linux 6.1; the line above the values holds the names
SNMP = """\
Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards
Ip: 1 64 8699 0 1 4711 0 0
Icmp: InMsgs InErrors InCsumErrors
Icmp: 18 0 0
"""
SNMP6 = "Ip6InReceives                   \t21\nIp6OutForwDatagrams             \t7\nUdp6InDatagrams \t1\n"
# a file of /proc/net/dev_snmp6 begins with the ifindex of the device
DEV_SNMP6 = "ifIndex                         \t2\nIp6InReceives                   \t5\n"


@given(st.binary(max_size=200))
def test_checksum_of_data_with_its_checksum_is_zero(data: bytes) -> None:
    data += b"\0" * (len(data) % 2)
    assert checksum(data + struct.pack("!H", checksum(data))) == 0


def test_checksum_matches_the_example_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=100), st.sampled_from([4, 6]))
def test_parse_echo_reply_returns_the_fields_of_the_request(
    ident: int, seq: int, payload: bytes, version: int
) -> None:
    request = echo_request(version, ident, seq, payload)
    if version == 4:
        assert checksum(request) == 0
    assert request[0] == (8 if version == 4 else 128)
    reply = bytes([0 if version == 4 else 129]) + request[1:]
    if version == 4:
        header = bytearray(24)  # one option, so that its length counts
        header[0], header[8] = 0x46, 61
        reply = bytes(header) + reply
    assert parse_echo_reply(version, reply) == (ident, seq, 61 if version == 4 else None, payload)


@given(st.binary(max_size=60), st.sampled_from([4, 6]))
def test_parse_echo_reply_accepts_any_bytes(data: bytes, version: int) -> None:
    reply = parse_echo_reply(version, data)
    assert reply is None or 0 <= reply[1] <= 0xFFFF


def test_parse_echo_reply_ignores_other_packets() -> None:
    assert parse_echo_reply(6, echo_request(6, 1, 2, b"own request")) is None
    assert parse_echo_reply(6, b"\x87") is None


def test_read_host_counters_looks_counters_up_by_name(tmp_path) -> None:
    (tmp_path / "snmp").write_text(SNMP)
    (tmp_path / "snmp6").write_text(SNMP6)
    (tmp_path / "dev_snmp6").mkdir()
    (tmp_path / "dev_snmp6/wire0").write_text(DEV_SNMP6)
    assert probe.read_host_counters(str(tmp_path)) == HostCounters(8699, 4711, 21, 7, {"wire0": (5, 0)})


def test_read_host_counters_without_ipv6(tmp_path) -> None:
    (tmp_path / "snmp").write_text(SNMP)
    assert probe.read_host_counters(str(tmp_path)).as_dict() == {
        "ipv4": {"in_receives": 8699, "forwarded": 4711},
        "ipv6": {"in_receives": 0, "forwarded": 0},
        "interfaces": {},
    }


def test_parse_snmp_rejects_text_without_ip_counters() -> None:
    with pytest.raises(ProbeError, match="no 'Ip:' lines"):
        probe.parse_snmp("Icmp: InMsgs\nIcmp: 1\n")


def test_since_returns_the_increase() -> None:
    before = HostCounters(100, 10, 20, 2, {"a": (5, 1), "gone": (9, 9), "idle": (3, 0)})
    now = HostCounters(103, 10, 24, 6, {"a": (7, 1), "idle": (3, 0), "new": (2, 4)})
    since = now.since(before)
    assert since.forwarded == 4
    assert since.as_dict() == {
        "ipv4": {"in_receives": 3, "forwarded": 0},
        "ipv6": {"in_receives": 4, "forwarded": 4},
        "interfaces": {
            "a": {"ipv6_in_receives": 2, "ipv6_forwarded": 0},
            "new": {"ipv6_in_receives": 2, "ipv6_forwarded": 4},
        },
    }


@pytest.mark.parametrize(
    ("address", "values", "message"),
    [
        ("10.0.0.1", {"size": 35}, "size: 35 for 10.0.0.1 is not between 36 and 65535 bytes"),
        ("fd00::1", {"size": 55}, "size: 55 for fd00::1 is not between 56"),
        ("fd00::1", {"size": 65536}, "size: 65536"),
        ("10.0.0.1", {"count": 0}, "count: 0 for 10.0.0.1 is not between 1"),
    ],
)
def test_probe_rejects_invalid_size_and_count(address: str, values: dict[str, int], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        Probe(ip_address(address), **values)


@pytest.mark.parametrize("text", ["10.0.0", "10.0.0.1/32", "", "pod1"])
def test_parse_address_names_option_and_value(text: str) -> None:
    with pytest.raises(ProbeError, match=f"probes: to: '{text}' is not an IPv4 or IPv6 address"):
        probe.parse_address("probes: to", text)


@given(st.integers(1, 500), st.data())
def test_as_dict_returns_loss_and_round_trip_times(count: int, data: st.DataObject) -> None:
    rtts = data.draw(st.lists(st.floats(0.001, 1000), max_size=count))
    result = ProbeResult(Probe(ip_address("10.0.0.1"), "pod1", count), sent=count, rtts=rtts)
    values = result.as_dict()
    assert 0 <= values["loss"] <= 100
    assert (values["loss"] == 0) == (len(rtts) == count)
    if rtts:
        assert values["rtt"]["min"] <= values["rtt"]["avg"] <= values["rtt"]["max"]
    else:
        assert values["rtt"] == {"min": None, "avg": None, "max": None}


def test_describe_returns_one_line_with_each_error_once() -> None:
    result = ProbeResult(Probe(ip_address("10.0.0.1"), "pod1", 4), sent=4, rtts=[1.0])
    result.note("no route (ENETUNREACH)")
    result.note("no route (ENETUNREACH)")
    assert result.describe() == (
        "from pod1 to 10.0.0.1, 84 bytes: 4 sent, 1 received (75.0 % loss): no route (ENETUNREACH)"
    )
