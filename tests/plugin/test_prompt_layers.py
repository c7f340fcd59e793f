"""Prompt layers and preview: what the user draws in a slice, and what is shown there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mouse import click, drag
from napari.components import ViewerModel
from napari.utils.notifications import notification_manager
from scipy.ndimage import binary_erosion

from napari_clipsam._plugin.layers import LayerImage, open_layer
from napari_clipsam._plugin.marks import (
    box_around,
    box_corners,
    box_of,
    outline,
    points_along,
    polygon_mask,
)
from napari_clipsam._plugin.placed_marks import COLOURS
from napari_clipsam._plugin.preview import PreviewLayer, edge_of, empty_labels
from napari_clipsam._plugin.prompt_layers import PromptLayers
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.prompts import Prompts

TURN = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
PLACES: dict[str, dict[str, Any]] = {
    "plain": {},
    "anisotropic": {"scale": (3, 0.5, 0.25), "translate": (7, -2, 30), "units": ("um",) * 3},
    "turned": {"scale": (0.1, 2, 3), "rotate": TURN, "affine": np.diag([1, 2, 2, 1])},
    "sheared": {"scale": (1, 2, 3), "shear": [[1, 0, 0], [0, 1, 0.5], [0, 0, 1]]},
}


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


def image_in(viewer: ViewerModel, **options: Any) -> LayerImage:
    data = np.random.default_rng(0).integers(0, 255, (8, 200, 300)).astype(np.uint8)
    return open_layer(viewer.add_image(data, name="cells", **options))


def prompts_in(viewer: ViewerModel, **options: Any) -> tuple[LayerImage, PromptLayers, list[Any]]:
    image = image_in(viewer, **options)
    prompts = PromptLayers(viewer, image)
    heard: list[Any] = []
    prompts.changed.connect(heard.append)
    return image, prompts, heard


def show(viewer: ViewerModel, image: LayerImage, slice_number: float) -> None:
    viewer.dims.set_point(0, image.layer.data_to_world((slice_number, 0, 0))[0])


def world(image: LayerImage, z: float, *yx: tuple[float, float]) -> list[Any]:
    return [image.layer.data_to_world((z, *one)) for one in yx]


def masks_of(*boxes: tuple[int, int, int, int]) -> list[ObjectMask]:
    return [ObjectMask(b, np.ones((b[2] - b[0], b[3] - b[1]), bool), 0.9) for b in boxes]


def messages() -> list[str]:
    return [record.message for record in notification_manager.records]


# ---------------------------------------------------------------- clicks


def test_clicks_have_a_sign_a_colour_and_a_shape_of_their_own(viewer: ViewerModel) -> None:
    image, prompts, heard = prompts_in(viewer)
    show(viewer, image, 5)
    for tool, yx in (("point+", (20, 30)), ("point-", (40, 50)), ("point+", (60, 70))):
        prompts.tool(tool)
        click(viewer, prompts.points, *world(image, 5, yx))
    key = (5, None, None)
    assert heard == [key] * 3
    found = prompts.prompts(key)
    assert found is not None
    np.testing.assert_allclose(found.points, [(20, 30), (40, 50), (60, 70)])
    assert found.labels.tolist() == [1, 0, 1]
    colours = [
        "#" + bytes((c[:3] * 255).round().astype(np.uint8)).hex() for c in prompts.points.face_color
    ]
    assert colours == [COLOURS[s] for s in ("positive", "negative", "positive")]
    assert [str(s) for s in prompts.points.symbol] == ["disc", "cross", "disc"]
    assert prompts.keys() == (key,)
    assert prompts.prompts((4, None, None)) is None


def test_a_click_between_two_slices_belongs_to_the_one_that_is_shown(viewer: ViewerModel) -> None:
    image, prompts, heard = prompts_in(viewer)
    show(viewer, image, 3.4)
    prompts.tool("point+")
    click(viewer, prompts.points, *world(image, 3.4, (20, 30)))
    assert heard == [(3, None, None)]
    assert prompts.points.data[0].tolist() == [3, 20, 30]


def test_marks_are_shown_on_their_slice_alone(viewer: ViewerModel) -> None:
    image, prompts, _ = prompts_in(viewer)
    mask = np.zeros((200, 300), bool)
    mask[50:90, 60:120] = True
    prompts.set(
        {
            (3, None, None): Prompts(points=[(20, 30)], boxes=[(5, 6, 50, 60)], mask=mask),
            (None, 20, None): Prompts(points=[(3, 30)]),
        }
    )
    for z in range(8):
        show(viewer, image, z)
        assert len(prompts.points._view_data) == (z == 3)
        assert (prompts.shapes._data_view._displayed.sum() > 0) == (z == 3)
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_point(1, 20)
    assert prompts.points._view_data.tolist() == [[3, 30]]


def test_dragging_and_deleting_a_click_is_one_change_each(viewer: ViewerModel) -> None:
    image, prompts, heard = prompts_in(viewer)
    key = (2, None, None)
    prompts.set({key: Prompts(points=[(20, 30), (60, 80)], labels=[1, 0])})
    show(viewer, image, 2)
    prompts.points.mode = "select"
    drag(viewer, prompts.points, world(image, 2, (20, 30), (22, 35), (30, 45), (40, 50)))
    assert heard == [key]
    found = prompts.prompts(key)
    assert found is not None and found.points.tolist() == [[40, 50], [60, 80]]
    prompts.points.selected_data = {0}
    prompts.points.remove_selected()
    assert heard == [key, key]
    found = prompts.prompts(key)
    assert found is not None and found.labels.tolist() == [0]
    prompts.points.data = prompts.points.data
    assert heard == [key, key], "nothing is new"


def test_deleting_clicks_of_two_slices_tells_both(viewer: ViewerModel) -> None:
    _, prompts, heard = prompts_in(viewer)
    keys = [(2, None, None), (4, None, None)]
    prompts.set({key: Prompts(points=[(20, 30)]) for key in keys})
    prompts.points.selected_data = {0, 1}
    prompts.points.remove_selected()
    assert sorted(heard) == keys
    assert prompts.keys() == ()


@pytest.mark.parametrize("yx", [(-3, 30), (20, 301), (200, 30)])
def test_a_click_beside_the_image_is_taken_back_with_a_word(
    viewer: ViewerModel, yx: tuple[float, float]
) -> None:
    image, prompts, heard = prompts_in(viewer)
    show(viewer, image, 2)
    prompts.tool("point+")
    click(viewer, prompts.points, *world(image, 2, yx))
    assert heard == [] and len(prompts.points.data) == 0
    assert "beside cells" in messages()[-1]


def test_a_click_where_no_slice_is_shown_is_taken_back_with_what_to_do(viewer: ViewerModel) -> None:
    _, prompts, heard = prompts_in(viewer)
    viewer.add_image(np.zeros((90, 20, 30)))
    viewer.dims.set_point(0, 60)
    prompts.points.add([60, 20, 30])
    assert heard == [] and len(prompts.points.data) == 0
    assert "Move that slider to 0 to 7" in messages()[-1]
    viewer.dims.ndisplay = 3
    prompts.points.add([6, 20, 30])
    assert heard == [] and len(prompts.points.data) == 0
    assert "Leave the 3D view" in messages()[-1]


# ---------------------------------------------------------------- boxes, lassos, scribbles


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shift", [0, 0.4])
def test_shapes_drawn_with_the_mouse_become_prompts_of_their_slice(
    viewer: ViewerModel, place: str, shift: float
) -> None:
    image, prompts, heard = prompts_in(viewer, **PLACES[place])
    z = 5 + shift
    show(viewer, image, z)
    key = (5, None, None)

    prompts.tool("box")
    drag(viewer, prompts.shapes, world(image, z, (9.5, 19.5), (20, 25), (59.5, 99.5)))
    found = prompts.prompts(key)
    assert heard == [key] and found is not None
    if place == "plain":  # napari draws rectangles upright in the world, so others are areas
        np.testing.assert_allclose(found.boxes, [(10, 20, 60, 100)], atol=1e-4)
    rows = prompts.shapes.data[0]
    assert (rows[:, 0] == 5).all()

    prompts.clear()
    prompts.tool("lasso")
    ring = [(20, 20), (20, 80), (80, 80), (80, 20), (22, 20)]
    drag(viewer, prompts.shapes, world(image, z, *ring))
    found = prompts.prompts(key)
    assert heard == [key, key] and found is not None and found.mask is not None
    inside = found.mask > 0
    assert inside[21:80, 21:80].all()
    assert inside.sum() == pytest.approx(60 * 60, rel=0.05)
    assert len(found.points) == 0
    np.testing.assert_array_equal(found.boxes, [box_around(inside)])

    prompts.clear()
    prompts.tool("scribble")
    drag(viewer, prompts.shapes, world(image, z, *[(50, x) for x in range(20, 260, 10)]))
    found = prompts.prompts(key)
    assert heard == [key, key, key] and found is not None and found.mask is None
    np.testing.assert_allclose(found.points[:, 0], 50, atol=1e-3)
    assert 20 < found.points[:, 1].min() < 40 and 220 < found.points[:, 1].max() < 260
    assert found.labels.all() and 5 < len(found.points) < 20


def test_prompts_may_be_taken_away_as_soon_as_a_shape_is_drawn(viewer: ViewerModel) -> None:
    """As the controller does where a mark has done its work at once."""
    image, prompts, heard = prompts_in(viewer)
    prompts.changed.connect(lambda _: prompts.clear())
    show(viewer, image, 5)
    for tool in ("box", "lasso", "scribble"):
        prompts.tool(tool)
        ring = [(20, 20), (20, 80), (80, 80), (80, 20), (22, 20)]
        drag(viewer, prompts.shapes, world(image, 5, *ring))
        assert len(prompts.shapes.data) == 0
        assert prompts.shapes.mode.startswith("add_"), "the tool stays in hand"
    assert heard == [(5, None, None)] * 3


def test_prompts_may_be_taken_away_while_a_shape_is_being_drawn(viewer: ViewerModel) -> None:
    image, prompts, heard = prompts_in(viewer)
    key = (5, None, None)
    show(viewer, image, 5)
    prompts.set({key: Prompts(points=[(3, 4)], boxes=[(5, 6, 50, 60)])})
    prompts.tool("lasso")
    click(viewer, prompts.shapes, *world(image, 5, (20, 20)))
    assert len(prompts.shapes.data) == 2
    prompts.points.add([5, 70, 80])
    assert heard == [key], "only the point is finished"
    prompts.clear()
    assert len(prompts.shapes.data) == 0
    ring = [(20, 20), (20, 80), (80, 80), (80, 20), (22, 20)]
    drag(viewer, prompts.shapes, world(image, 5, *ring))
    assert heard == [key, key]
    found = prompts.prompts(key)
    assert found is not None and found.mask is not None


def test_a_turned_rectangle_and_an_ellipse_enclose_an_area(viewer: ViewerModel) -> None:
    _, prompts, heard = prompts_in(viewer)
    corners = np.array([(3, 50, 20), (3, 80, 50), (3, 50, 80), (3, 20, 50)])
    key = (3, None, None)
    show_at = viewer.dims.set_point
    show_at(0, 3)
    prompts.shapes.add(corners, shape_type="rectangle")
    found = prompts.prompts(key)
    assert found is not None and found.mask is not None
    np.testing.assert_allclose(found.boxes, [(20, 20, 81, 81)], atol=1)
    assert (found.mask > 0).sum() == pytest.approx(1800, rel=0.05)
    prompts.clear()
    upright = np.array([(3, 20, 20), (3, 80, 20), (3, 80, 120), (3, 20, 120)])
    prompts.shapes.add(upright, shape_type="ellipse")
    found = prompts.prompts(key)
    assert found is not None and found.mask is not None
    assert (found.mask > 0).sum() == pytest.approx(np.pi * 30 * 50, rel=0.05)
    assert heard == [key, key]


def test_a_mere_click_with_the_box_tool_asks_for_nothing(viewer: ViewerModel) -> None:
    image, prompts, heard = prompts_in(viewer)
    show(viewer, image, 3)
    prompts.tool("box")
    click(viewer, prompts.shapes, *world(image, 3, (20, 20)))
    assert prompts.keys() == () and len(prompts.shapes.data) == 0 and heard == []
    drag(viewer, prompts.shapes, world(image, 3, (20, 20), (30, 30), (40, 50)))
    assert heard == [(3, None, None)]


# ---------------------------------------------------------------- set, clear, come and go


def test_prompts_come_back_exactly_and_silently(viewer: ViewerModel) -> None:
    _, prompts, heard = prompts_in(viewer, **PLACES["turned"])
    rng = np.random.default_rng(0)
    blob = np.zeros((200, 300), bool)
    blob[20:60, 30:90] = rng.random((40, 60)) > 0.2
    wanted = {
        (1, None, None): Prompts(points=rng.random((5, 2)) * 100, labels=[1, 0, 1, 1, 0]),
        (2, None, None): Prompts("nuclei", boxes=[(1.5, 2.25, 30, 40), (50, 60, 70, 80)]),
        (4, None, None): Prompts(mask=blob, points=[(5, 6)], boxes=[box_around(blob)]),
        (5, None, None): Prompts(mask=blob, boxes=[(10, 20, 70, 95)]),
        (None, 7, None): Prompts(points=[(3, 9)], boxes=[(0, 10, 5, 30)]),
        (6, None, None): Prompts("only a word"),
    }
    prompts.set(wanted)
    for key, asked in wanted.items():
        found = prompts.prompts(key)
        if key == (6, None, None):
            assert found is None
            continue
        assert found is not None
        for name in ("points", "labels", "boxes"):
            np.testing.assert_array_equal(getattr(found, name), getattr(asked, name))
        if asked.mask is not None:
            np.testing.assert_array_equal(found.mask, asked.mask)
    assert prompts.shapes.shape_type.count("polygon") == 2
    assert prompts.shapes.shape_type.count("rectangle") == 4, "a box of its own is drawn"
    before = prompts.shapes.data
    prompts.set(wanted)
    assert all(a is b for a, b in zip(prompts.shapes.data, before, strict=True)), "left alone"
    prompts.clear()
    assert prompts.keys() == () and len(prompts.points.data) == len(prompts.shapes.data) == 0
    assert heard == []


def test_a_scribble_stays_one_while_other_slices_change(viewer: ViewerModel) -> None:
    image, prompts, _ = prompts_in(viewer)
    show(viewer, image, 5)
    prompts.tool("scribble")
    drag(viewer, prompts.shapes, world(image, 5, *[(50, x) for x in range(20, 260, 10)]))
    key = (5, None, None)
    asked = prompts.prompts(key)
    assert asked is not None
    prompts.set({key: asked, (2, None, None): Prompts(points=[(3, 4)])})
    assert prompts.shapes.shape_type == ["path"]
    assert prompts.points.data.tolist() == [[2, 3, 4]]


def test_an_outline_that_was_moved_stands_for_what_it_encloses(viewer: ViewerModel) -> None:
    _, prompts, heard = prompts_in(viewer)
    key = (3, None, None)
    mask = np.zeros((200, 300), bool)
    mask[20:60, 30:90] = True
    mask[30, 40] = False
    prompts.set({key: Prompts(mask=mask)})
    prompts.shapes.data = [(prompts.shapes.data[0] + (0, 5, 7), "polygon")]
    assert heard == [key]
    found = prompts.prompts(key)
    assert found is not None and found.mask is not None
    expected = np.zeros_like(mask)
    expected[25:65, 37:97] = True
    assert ((found.mask > 0) != expected).sum() < 250


def test_deleting_a_layer_deletes_its_prompts_and_the_tool_brings_it_back(
    viewer: ViewerModel,
) -> None:
    image, prompts, heard = prompts_in(viewer)
    key = (3, None, None)
    prompts.set({key: Prompts(points=[(3, 4)], boxes=[(1, 2, 30, 40)])})
    viewer.layers.remove(prompts.points)
    assert heard == [key]
    found = prompts.prompts(key)
    assert found is not None and len(found.points) == 0
    viewer.layers.remove(prompts.shapes)
    assert prompts.keys() == () and heard == [key, key]
    prompts.tool("point+")
    assert prompts.points in viewer.layers and viewer.layers.selection.active is prompts.points
    show(viewer, image, 3)
    click(viewer, prompts.points, *world(image, 3, (20, 30)))
    assert heard == [key, key, key]


def test_layers_lie_where_the_image_lies_and_follow_it(viewer: ViewerModel) -> None:
    image, prompts, _ = prompts_in(viewer, **PLACES["turned"], axis_labels=("z", "y", "x"))
    preview = PreviewLayer(viewer, image)
    own = (prompts.points, prompts.shapes, preview.labels)

    def assert_same_place() -> None:
        for layer in own:
            for corner in ((0, 0, 0), (7, 0, 0), (0, 199, 0), (0, 0, 299)):
                np.testing.assert_allclose(
                    layer.data_to_world(corner), image.layer.data_to_world(corner), atol=1e-9
                )
            assert layer.units == image.layer.units
            assert layer.axis_labels == image.layer.axis_labels

    assert_same_place()
    image.layer.scale = (2, 3, 4)
    image.layer.units = ("um",) * 3
    image.layer.rotate = np.eye(3)
    image.layer.translate = (1, 2, 3)
    assert_same_place()


def test_the_active_layer_stays_active_and_tools_take_the_mouse(viewer: ViewerModel) -> None:
    image = image_in(viewer)
    prompts = PromptLayers(viewer, image)
    preview = PreviewLayer(viewer, image)
    assert viewer.layers.selection.active is image.layer

    def roles() -> list[str | None]:
        return [layer.metadata.get("clipsam_role") for layer in viewer.layers]

    assert roles() == [None, "preview", "shapes", "clicks"]
    preview.similarity((2, None, None), np.ones((4, 5), np.float32))
    assert roles() == [None, "similarity", "preview", "shapes", "clicks"]
    assert viewer.layers.selection.active is image.layer
    for tool, layer, mode in (
        ("point+", prompts.points, "add"),
        ("box", prompts.shapes, "add_rectangle"),
        ("lasso", prompts.shapes, "add_polygon_lasso"),
        ("scribble", prompts.shapes, "add_path"),
    ):
        prompts.tool(tool)
        assert viewer.layers.selection.active is layer and layer.mode == mode
    preview.show({(2, None, None): [(1, *masks_of((1, 2, 5, 9)))]})
    assert viewer.layers.selection.active is prompts.shapes
    prompts.tool("")
    assert viewer.layers.selection.active is image.layer
    assert prompts.shapes.mode == prompts.points.mode == "pan_zoom"


def test_closing_leaves_nothing_behind(viewer: ViewerModel) -> None:
    image = image_in(viewer)

    def listeners() -> int:
        events = [viewer.layers.events.removed, viewer.dims.events.order]
        events += [getattr(image.layer.events, name) for name in ("scale", "affine", "units")]
        return sum(len(event.callbacks) for event in events)

    before = listeners()
    for _ in range(3):
        prompts, preview = PromptLayers(viewer, image), PreviewLayer(viewer, image)
        for own in (prompts, preview):
            own.close()
            own.close()
    assert list(viewer.layers) == [image.layer]
    assert listeners() == before


# ---------------------------------------------------------------- preview


def test_the_preview_has_a_bright_outline_and_a_faint_fill(viewer: ViewerModel) -> None:
    image = image_in(viewer)
    preview = PreviewLayer(viewer, image)
    preview.show({(3, None, None): [(1, *masks_of((10, 20, 40, 60)))]})
    colours = preview.labels.colormap.map(preview.labels.data[3])
    assert colours[10, 30, 3] == 1 and colours[39, 59, 3] == 1
    assert colours[25, 40, 3] == pytest.approx(0.4, abs=0.01)
    np.testing.assert_array_equal(colours[10, 30, :3], colours[25, 40, :3])
    assert (colours[9] == 0).all() and (preview.labels.data[[0, 1, 2, 4, 5, 6, 7]] == 0).all()
    assert not preview.labels.editable
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    assert not preview.labels.editable, "nobody paints in a preview"


def test_the_preview_shows_what_it_is_given_and_nothing_else(viewer: ViewerModel) -> None:
    image = image_in(viewer)
    preview = PreviewLayer(viewer, image)
    first, second, across = masks_of((10, 20, 40, 60), (20, 30, 50, 80), (0, 100, 8, 130))
    hole = ObjectMask((0, 0, 0, 0), np.zeros((0, 0), bool), 0.0)
    flat, upright = (3, None, None), (None, 30, None)
    preview.show({flat: [(1, first), (2, second), (3, hole)]})
    assert preview.labels.data[3, 25, 45] == preview.labels.data[3, 45, 75] == 3
    preview.show({flat: [(1, first)], upright: [(4, across)]})
    assert preview.labels.data[3, 45, 75] == 0 and preview.labels.data[5, 30, 115] == 7
    preview.show({flat: [(1, masks_of((0, 90, 60, 140))[0])]})
    expected = np.zeros(image.shape, bool)
    expected[3, 0:60, 90:140] = True
    np.testing.assert_array_equal(preview.labels.data > 0, expected)
    preview.clear()
    assert not preview.labels.data.any()


def test_unchanged_planes_are_not_written_again(viewer: ViewerModel) -> None:
    image = image_in(viewer)
    preview = PreviewLayer(viewer, image)
    first, second = masks_of((10, 20, 40, 60), (20, 30, 50, 80))
    preview.show({(3, None, None): [(1, first)]})
    preview.labels.data[3] = 77
    preview.show({(3, None, None): [(1, first)], (4, None, None): [(1, second)]})
    assert (preview.labels.data[3] == 77).all()
    assert preview.labels.data[4].any()


@pytest.mark.parametrize("place", PLACES)
def test_similarity_covers_its_plane_exactly(viewer: ViewerModel, place: str) -> None:
    image = image_in(viewer, **PLACES[place])
    preview = PreviewLayer(viewer, image)
    map_ = np.arange(6, dtype=np.float32).reshape(2, 3) / 5
    preview.similarity((3, None, None), map_)
    assert preview.overlay.visible and preview.overlay.opacity < 0.5
    for i in range(2):
        for j in range(3):
            there = preview.overlay.data_to_world((0, i, j))
            middle = (3, 100 * (i + 0.5) - 0.5, 100 * (j + 0.5) - 0.5)
            np.testing.assert_allclose(there, image.layer.data_to_world(middle), atol=1e-6)
    np.testing.assert_array_equal(preview.overlay.data[0], map_)
    image.layer.translate = (9, 9, 9)
    np.testing.assert_allclose(
        preview.overlay.data_to_world((0, 0.5, 1)),
        image.layer.data_to_world((3, 99.5, 149.5)),
        atol=1e-6,
    )
    preview.similarity((None, 5, None), map_)
    np.testing.assert_allclose(
        preview.overlay.data_to_world((0.5, 0, 1)),
        image.layer.data_to_world((3.5, 5, 149.5)),
        atol=1e-6,
    )
    preview.hide_similarity()
    assert not preview.overlay.visible


def test_a_deleted_preview_comes_back_with_the_next_answer(viewer: ViewerModel) -> None:
    image = image_in(viewer)
    preview = PreviewLayer(viewer, image)
    preview.similarity((3, None, None), np.ones((4, 5), np.float32))
    viewer.layers.remove(preview.labels)
    viewer.layers.remove(preview.overlay)
    preview.show({(3, None, None): [(1, *masks_of((10, 20, 40, 60)))]})
    assert preview.labels in viewer.layers
    assert preview.labels.data.any()
    preview.similarity((3, None, None), np.ones((4, 5), np.float32))
    assert preview.overlay in viewer.layers


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)),
    st.integers(1, 4),
)
def test_an_outline_is_what_erosion_takes_away(mask: np.ndarray, width: int) -> None:
    inner = binary_erosion(mask, iterations=width)
    np.testing.assert_array_equal(edge_of(mask, width), mask & ~inner)


def test_labels_too_large_for_memory_take_none_while_they_are_empty(viewer: ViewerModel) -> None:
    labels = empty_labels((4000, 4096, 4096))
    assert isinstance(labels, zarr.Array) and labels.shape == (4000, 4096, 4096)
    layer = viewer.add_labels(labels)
    where = (7, slice(10, 20), slice(30, 40))
    layer.data[where] = 5
    assert labels.nchunks_initialized == 1
    viewer.dims.set_point(0, 7)
    assert layer.get_value((7, 15, 35)) == 5
    assert isinstance(empty_labels((4, 40, 40)), np.ndarray)


# ---------------------------------------------------------------- marks


@given(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from((0.0, 0.25, 0.5)),
)
def test_boxes_survive_being_drawn(box: tuple[int, int, int, int], fraction: float) -> None:
    y, x, height, width = box
    given_box = (y + fraction, x, y + height + fraction, x + width)
    drawn = box_corners(np.array(given_box)).astype(np.float32).astype(np.float64)
    for start in range(4):
        assert box_of(np.roll(drawn, start, axis=0), (200, 200)) == given_box
    assert box_of(drawn + 200, (200, 200)) is None


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_an_outline_encloses_the_pixels_of_a_solid_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ring = rng.uniform(5, 75, (3, 2))
    mask = polygon_mask(ring, (80, 90))
    if not mask.any():
        return
    drawn = outline(mask)
    assert (drawn > -1).all() and len(drawn) >= 3
    again = polygon_mask(drawn, mask.shape)
    # A thin triangle may fall apart; only its largest piece is drawn then.
    assert (again & ~mask).sum() <= 0.2 * mask.sum() + 4


@pytest.mark.parametrize(
    ("path", "count"),
    [([(5, 5), (5, 5)], 1), ([(5, 5), (5, 14)], 3), ([(0, 0), (0, 500)], 12)],
)
def test_a_scribble_has_as_many_points_as_it_is_long(path: list, count: int) -> None:
    points = points_along(np.array(path, float), (600, 600))
    assert len(points) == count
    assert (points[:, 0] == path[0][0]).all()


def test_a_scribble_beside_the_image_loses_what_is_outside() -> None:
    points = points_along(np.array([(5.0, -100), (5, 100)]), (20, 120))
    assert 4 <= len(points) <= 7 and (points >= 0).all()


def test_the_rim_of_the_outermost_pixels_is_inside(viewer: ViewerModel) -> None:
    image, prompts, heard = prompts_in(viewer)
    show(viewer, image, 2)
    prompts.tool("point+")
    for yx in ((-0.4, -0.4), (199.4, 299.4)):
        click(viewer, prompts.points, *world(image, 2, yx))
    found = prompts.prompts((2, None, None))
    assert len(heard) == 2 and found is not None
    found.check_inside((200, 300))
