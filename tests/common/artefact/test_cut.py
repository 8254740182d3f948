"""Cutting ONNX files: the parts one after the other answer as the whole does, wherever it may be cut."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from argosy_common.artefact.cut import Graph
from argosy_common.errors import CutImpossible, CutToolsMissing, InputInvalid
from argosy_common.offload import DEADLINE, DTYPE, SHAPE, TensorForm, infer_path, parse_deadline
from tests.cuttable import EXITS, exits_of, staged
from tests.models import answers, network, windows


def ran(model: bytes, array: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: list[NDArray[np.generic]] = session.run(None, {session.get_inputs()[0].name: array})
    return found


def test_the_parts_answer_as_the_whole_does_wherever_it_is_cut() -> None:
    model, inputs = network(), windows(3)
    graph = Graph(model)
    places = graph.places("y")
    assert [each.tensor for each in places] == ["x", "c1", "r1", "c2", "r2", "p", "f"]
    assert [(each.shape, each.size) for each in places[-2:]] == [((8, 1), 32), ((8,), 32)]
    for place in places[1:]:
        (boundary,) = ran(graph.part("x", [place.tensor]), inputs)
        assert boundary.shape == (3, *place.shape)
        assert np.allclose(ran(graph.part(place.tensor, ["y"]), boundary)[0], answers(model, inputs), atol=1e-5)


def test_a_part_carries_only_the_weights_that_it_needs() -> None:
    graph = Graph(network())
    names = {each.name for each in onnx.load_from_string(graph.part("r2", ["y"])).graph.initializer}
    assert names == {"w3", "b3"}


def test_no_place_lies_beside_a_shortcut_nor_on_the_way_to_an_exit() -> None:
    graph = Graph(staged())
    assert [each.tensor for each in graph.places("y")] == [
        "x", "b1.c", "b1", "sum", "b3.c", "b3", "y.p", "y.f",
    ]  # fmt: skip
    assert graph.place("sum", "y").depth == 5
    for no in ("b2", "e1.p", "y", "nothing", "b1.w"):
        with pytest.raises(CutImpossible):
            graph.place(no, "y")
    with pytest.raises(CutImpossible):
        graph.part("b2", ["y"])


def test_exits_leave_the_way_in_their_order_and_in_no_other() -> None:
    model, inputs = staged(), windows(2)
    graph = Graph(model)
    assert [each.tensor for each in graph.branches(EXITS, "y")] == ["b1", "sum"]
    first, boundary = ran(graph.part("x", ["e1", "b1"]), inputs)
    second, _ = ran(graph.part("b1", ["e2", "sum"]), boundary)
    wanted = exits_of(model, inputs)
    assert np.allclose(first, wanted["e1"], atol=1e-5)
    assert np.allclose(second, wanted["e2"], atol=1e-5)
    with pytest.raises(CutImpossible, match="order"):
        graph.branches(EXITS[::-1], "y")


def test_what_is_the_same_for_every_input_does_not_cross() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array([2.0], np.float32))),
        helper.make_node("Mul", ["k", "w"], ["kw"]),
        helper.make_node("Mul", ["a", "kw"], ["b"]),
        helper.make_node("Add", ["b", "kw"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.ones(3, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    cut = Graph(model)
    assert [each.tensor for each in cut.places("y")] == ["x", "a", "b"]
    (found,) = ran(cut.part("b", ["y"]), np.ones((1, 3), np.float32))
    assert found.tolist() == [[3.0, 3.0, 3.0]], "the tail makes it for itself"


def test_what_an_inner_graph_takes_from_outside_crosses_too() -> None:
    value = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["inner"])], "t", [], [value("inner", TensorProto.FLOAT, None)]
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("If", ["yes"], ["c"], then_branch=branch, else_branch=branch),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array(True), "yes")],  # noqa: FBT003  (the value of a tensor)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    assert "b" not in {each.tensor for each in Graph(model).places("y")}


@pytest.mark.parametrize("rubbish", [b"", b"no model", b"\x80\x04K\x01."])
def test_what_is_no_model_is_refused_by_name(rubbish: bytes) -> None:
    with pytest.raises(CutImpossible):
        Graph(rubbish)


def test_without_onnx_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CutToolsMissing, match="onnx") as caught:
        Graph(network())
    assert "argosy[inference,export]" in caught.value.remedy_text


# --- the form of a request -----------------------------------------------------------------------------------------


@given(shape=st.lists(st.integers(0, 999_999_999), min_size=1, max_size=8), dtype=st.sampled_from(["float32", "int8"]))
def test_what_a_tensor_is_reads_back(shape: list[int], dtype: str) -> None:
    form = TensorForm(dtype, tuple(shape))
    assert TensorForm.parse(form.headers(), model="m") == form


@settings(max_examples=200)
@given(dtype=st.text(max_size=10), shape=st.text(max_size=30))
def test_rubbish_in_headers_is_refused_by_name_or_means_something(dtype: str, shape: str) -> None:
    try:
        form = TensorForm.parse({DTYPE: dtype, SHAPE: shape}, model="m")
    except InputInvalid:
        return
    assert form.size >= 0


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e9", "soon", "60001"])
def test_a_deadline_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(InputInvalid, match=DEADLINE):
        parse_deadline(text, model="m")


def test_a_tensors_name_travels_whole() -> None:
    assert infer_path("har", 3, "/block/a b?&=ü") == "/v1/infer/har/3?from=%2Fblock%2Fa%20b%3F%26%3D%C3%BC"
