import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax.errors import UserError
from knee_jax.landmarks import PRESETS, compartment
from knee_jax.models import keypoint_pooling
from knee_jax.targets.grades import GRADES, NUM_CLASSES

WIDTHS = {"fl": range(0, 7), "fm": range(6, 13), "tl": range(13, 22), "tm": range(21, 30)}
"""The compartments' places among the 30 points of the preset `joint`, counted by hand."""


def test_pooling_a_linear_ramp_returns_its_value():
    """The map's pixel i lies at i + 0.5, so f(x, y) = 2x - 3y is met exactly between pixels."""
    height, width = 6, 9
    y, x = np.mgrid[:height, :width] + 0.5
    ramp = jnp.asarray(np.stack([2 * x - 3 * y, np.ones_like(x)], -1)[None], jnp.float32)
    points = np.random.default_rng(0).uniform(0.5, (width - 0.5, height - 0.5), (1, 50, 2))
    pooled = keypoint_pooling.bilinear_pool(ramp, jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(
        pooled[0, :, 0], 2 * points[0, :, 0] - 3 * points[0, :, 1], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(pooled[0, :, 1], 1, rtol=1e-6)


def test_points_outside_are_read_at_the_border():
    features = jnp.arange(12.0).reshape(1, 3, 4, 1)
    points = jnp.array([[[-50.0, -50.0], [99.0, 1.5], [0.1, 99.0], [3.9, 0.0]]])
    pooled = keypoint_pooling.bilinear_pool(features, points)
    np.testing.assert_array_equal(pooled[0, :, 0], [0, 7, 8, 3])


def test_pooling_and_gradients_equal_grid_sample():
    torch = pytest.importorskip("torch", reason="parity with PyTorch needs the `torch` extra")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 7, 5, 3)).astype(np.float32)
    points = rng.uniform(-1, 8, (2, 40, 2)).astype(np.float32)
    upstream = rng.normal(size=(2, 40, 3)).astype(np.float32)
    pooled, vjp = jax.vjp(keypoint_pooling.bilinear_pool, features, points)
    tensor = torch.from_numpy(features).permute(0, 3, 1, 2).requires_grad_()
    grid = torch.from_numpy(points / np.float32([5, 7]) * 2 - 1)[:, None]
    sampled = torch.nn.functional.grid_sample(
        tensor, grid, padding_mode="border", align_corners=False
    )[:, :, 0].transpose(1, 2)
    sampled.backward(torch.from_numpy(upstream))
    np.testing.assert_allclose(pooled, sampled.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(vjp(upstream)[0], tensor.grad.permute(0, 2, 3, 1).numpy(), atol=1e-5)


def torch_heads(params, points, aggregation):
    """An independent reading of the paper's Fig. 2b: logits from pooled points [B, 30, C]."""
    import torch

    def aggregate(part, name):
        if aggregation == "concat":
            return part.flatten(1)
        if aggregation == "attention":
            score = {k: torch.tensor(np.array(v)) for k, v in params[name]["score"].items()}
            share = torch.softmax(part @ score["kernel"] + score["bias"], dim=1)
            return torch.einsum("bpo,bpc->bc", share, part)
        return part.mean(1) if aggregation == "mean" else part.max(1).values

    parts = {
        name: aggregate(points[:, list(places)], f"attention_{name}")
        for name, places in WIDTHS.items()
    }
    whole = points.flatten(1) if aggregation == "concat" else torch.cat(list(parts.values()), 1)
    logits = {}
    for grade in GRADES:
        x = parts[grade[2:]] if grade.startswith("os") else whole
        weights = {
            layer: {k: torch.from_numpy(np.array(v)) for k, v in values.items()}
            for layer, values in params[f"head_{grade}"].items()
        }
        if "hidden" in weights:
            x = torch.relu(x @ weights["hidden"]["kernel"] + weights["hidden"]["bias"])
        logits[grade] = x @ weights["logits"]["kernel"] + weights["logits"]["bias"]
    return logits


@pytest.mark.parametrize(
    ("aggregation", "hidden", "depth"),
    [("concat", 0, 50), ("mean", 8, 18), ("max", 0, 18), ("attention", 0, 18)],
)
def test_network_equals_its_pytorch_twin(aggregation, hidden, depth):
    pytest.importorskip("torch", reason="parity with PyTorch needs the `torch` extra")
    from tests.models import torch_reference as reference
    from tests.models.torch_reference import torch

    net = reference.resnet(depth)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 96, 128, 3)).astype(np.float32)
    keypoints = rng.uniform(-10, 140, (2, 74, 2)).astype(np.float32)
    model = keypoint_pooling.Model(depth=depth, aggregation=aggregation, hidden=hidden)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, keypoints)
    variables = jax.tree.map(lambda leaf: 0.02 * rng.normal(size=leaf.shape).astype("f4"), shapes)
    variables = keypoint_pooling.load(variables, net.state_dict())
    with torch.no_grad():
        third = reference.stages(net, reference.to_torch(image))[2]
        indices = [*range(12, 25), *range(47, 64)]
        grid = torch.from_numpy(keypoints[:, indices] / np.float32([128, 96]) * 2 - 1)[:, None]
        points = torch.nn.functional.grid_sample(
            third, grid, padding_mode="border", align_corners=False
        )[:, :, 0].transpose(1, 2)
        expected = torch_heads(variables["params"], points, aggregation)
    logits = jax.jit(model.apply)(variables, image, keypoints)
    assert set(logits) == set(GRADES)
    for grade in GRADES:
        reference.assert_close(logits[grade], expected[grade].numpy())


def init(**kwargs):
    """Shapes of a narrow model's variables."""
    model = keypoint_pooling.Model(**{"depth": 18, "width": 4, **kwargs})
    image, keypoints = jnp.zeros((1, 32, 32, 1)), jnp.zeros((1, 74, 2))
    return jax.eval_shape(model.init, jax.random.key(0), image, keypoints)["params"]


@pytest.mark.parametrize(("landmarks", "points"), [("joint", 30), ("all74", 74), ("kneel16", 16)])
def test_concat_reads_every_landmark_once(landmarks, points):
    params = init(landmarks=landmarks)
    assert params["head_kl"]["logits"]["kernel"].shape == (points * 16, NUM_CLASSES["kl"])


def test_osteophyte_heads_read_their_compartment_alone():
    """A step in the image's right half (medial) leaves the lateral osteophyte grades as they are.

    With one-point heads on a map that is not smeared by a network: the pooled features.
    """
    model = keypoint_pooling.Model(depth=18, width=4)
    features = jnp.zeros((1, 4, 4, 16)).at[:, :, 2:].set(1.0)
    keypoints = np.zeros((1, 74, 2), np.float32)
    keypoints[0, :, 0] = [8] * 19 + [56] * 18 + [8] * 19 + [56] * 18
    keypoints[0, :, 1] = 30
    pooled = model._pool(features, jnp.asarray(keypoints))
    assert not pooled["fl"].any()
    assert not pooled["tl"].any()
    assert float(pooled["fm"].mean()) == pytest.approx(6 / 7)
    assert float(pooled["tm"].mean()) == pytest.approx(8 / 9)


def test_without_keypoint_pooling_there_is_a_fourth_stage_and_no_need_of_keypoints():
    model = keypoint_pooling.Model(depth=18, width=4, kpn=False)
    image = jnp.zeros((1, 32, 32, 1))
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    assert "layer4_1" in params["trunk"]
    assert params["head_osfl"]["logits"]["kernel"].shape == (32, 4)
    assert "layer4_0" not in init()["trunk"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"landmarks": "ankle"}, "unknown landmark preset 'ankle'; choose from: joint, all74"),
        ({"aggregation": "sum"}, "unknown aggregation 'sum'; choose from: concat, mean, max"),
        ({"depth": 19}, "unknown ResNet depth 19; choose from: 10, 18, 34, 50"),
        ({"targets": ("kl", "foot")}, "unknown target 'foot'"),
    ],
)
def test_wrong_settings_are_reported(kwargs, message):
    with pytest.raises(UserError, match=message):
        init(**kwargs)


def test_missing_keypoints_are_reported():
    model = keypoint_pooling.Model(depth=18, width=4)
    with pytest.raises(UserError, match="needs keypoints"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


def test_presets_and_compartments_are_those_of_the_published_windows():
    """Condyles 12..24 about 18 and plateau 47..63 about 55; the centres belong to both sides."""
    assert PRESETS["joint"] == (*range(12, 25), *range(47, 64))
    assert PRESETS["all74"] == tuple(range(74))
    assert len(PRESETS["kneel16"]) == 16
    assert {18, 55} <= set(PRESETS["joint"])
    sides = {name: {i for i in range(74) if name in compartment(i)} for name in WIDTHS}
    assert sides == {
        "fl": set(range(0, 19)),
        "fm": set(range(18, 37)),
        "tl": set(range(37, 56)),
        "tm": set(range(55, 74)),
    }


def test_points_without_a_landmark_read_the_average_with_its_gradient():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    points = rng.uniform(0, 5, (2, 4, 2)).astype(np.float32)
    whole = keypoint_pooling.pool_known(features, points)
    np.testing.assert_array_equal(whole, keypoint_pooling.bilinear_pool(features, points))
    points[0] = np.nan
    points[1, 2, 1] = np.nan
    pooled, vjp = jax.vjp(lambda x: keypoint_pooling.pool_known(x, points), features)
    average = features.mean((1, 2))
    np.testing.assert_allclose(pooled[0], np.tile(average[0], (4, 1)), atol=1e-6)
    np.testing.assert_allclose(pooled[1, 2], average[1], atol=1e-6)
    np.testing.assert_array_equal(pooled[1, :2], whole[1, :2])
    (gradient,) = vjp(jnp.ones_like(pooled))
    np.testing.assert_allclose(gradient[0], 4 / 30, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_knees_without_landmarks_train_beside_those_with():
    """And do not change how the others are read."""
    model = keypoint_pooling.Model(depth=18, width=4, aggregation="attention", regression=True)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(2, 32, 32, 1)), jnp.float32)
    keypoints = rng.uniform(0, 32, (2, 74, 2)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, keypoints)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.01, 0.2, leaf.shape).astype("f4"), shapes)

    @jax.jit
    def read(params, keypoints):
        def total(params):
            outputs = model.apply({**variables, "params": params}, image, keypoints)
            return sum(jnp.square(value).sum() for value in outputs.values()), outputs

        return jax.grad(total, has_aux=True)(params)

    without = keypoints.copy()
    without[1] = np.nan
    (_, outputs), (gradients, mixed) = (read(variables["params"], k) for k in (keypoints, without))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert {n: v.shape for n, v in mixed.items()} == {
        **{g: (2, NUM_CLASSES[g]) for g in GRADES},
        **{f"{g}_value": (2,) for g in GRADES},
    }
    for name, value in mixed.items():
        np.testing.assert_array_equal(value[0], outputs[name][0])
        assert np.isfinite(value[1]).all()
        assert not np.array_equal(value[1], outputs[name][1])


def test_regression_adds_one_unit_a_grade_and_nothing_else():
    params, with_values = init(hidden=8), init(hidden=8, regression=True)
    added = {f"value_{g}" for g in GRADES}
    assert set(with_values) - set(params) == added
    assert all(with_values[name]["logits"]["kernel"].shape == (8, 1) for name in added)
    assert "value_jsm" in init(kpn=False, regression=True)
