"""What a request may say, without a server around it: numbers and lists that no tensor has."""

from __future__ import annotations

import json
import time

import pytest

from mscsa_deploy.serving.messages import read_request
from mscsa_deploy.serving.refusal import Refusal

HUGE = 10**4000
"""Two of them multiplied have more digits than Python writes."""


def body(*, shape=(1, 1, 3), data="[1, 2, 3]", parameters=None, datatype="UINT8"):
    item = {"name": "pixels", "datatype": datatype, "shape": list(shape)}
    text = json.dumps({"inputs": [item], "parameters": parameters or {}})
    return text.replace('"shape"', f'"data": {data}, "shape"').encode()


def refused(data, header_length=None):
    with pytest.raises(Refusal) as caught:
        read_request(data, header_length)
    assert caught.value.status == 400
    return caught.value.body.decode()


def test_a_request_is_read():
    found = read_request(body(parameters={"timeout": 2**63 - 1}), None)
    assert found.tensors["pixels"].tolist() == [[[1, 2, 3]]]
    assert found.timeout_us == 2**63 - 1


@pytest.mark.parametrize("timeout", [2**63, 10**400, -1])
def test_timeout_beyond_any_clock_is_refused(timeout):
    assert "microseconds" in refused(body(parameters={"timeout": timeout}))


@pytest.mark.parametrize("shape", [(HUGE, HUGE), (-HUGE, HUGE), (2**31, 1, 3), (1, HUGE, 0)])
def test_sizes_that_have_no_text_are_refused(shape):
    assert "beyond 2147483647" in refused(body(shape=shape))


def test_binary_size_that_has_no_text_is_refused():
    item = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 3], "parameters": {"binary_data_size": HUGE}}
    head = json.dumps({"inputs": [item]}).encode()
    assert "too many bytes" in refused(head + b"abc", len(head))


@pytest.mark.parametrize("item", ["[]", "[0]", "0", "[[[[]]]]"])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32", "BYTES"])
def test_far_more_json_than_the_shape_holds_is_refused_unread(item, datatype):
    text = "[" + ",".join([item] * 2_000_000) + "]"
    begin = time.process_time()
    refused(body(data=text, datatype=datatype))
    # Making lists of them takes ten times as long.
    assert time.process_time() - begin < 0.5


def test_generous_white_space_is_no_attack():
    values = ",\n                                ".join("1.2345678901234567" for _ in range(3000))
    found = read_request(body(shape=(1, 1000, 3), data=f"[[\n{values}\n]]", datatype="FP32"), None)
    assert found.tensors["pixels"].shape == (1, 1000, 3)
