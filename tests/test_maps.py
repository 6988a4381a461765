"""Exact regions and boundaries: against dense sweeps, closed forms and each other."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

import jaxgame as jg
from jaxgame.maps.follow import Follower
from jaxgame.maps.regions import _clipped


@pytest.fixture(scope="module")
def survey():
    return jg.surveys.load("gss2018-ideology")


def two_groups(rho=0.4):
    """K = [[1, ρ], [ρ, 1]], Q = I, both targets ½: group 2 is out iff α(a_1 − a_2) ≥ γ + δ(1 − ρ) (theory §3.3)."""
    kernel = np.array([[1, rho], [rho, 1]])
    game = jg.AlignmentGame(np.full((5, 2), 0.5), kernel, np.array([1.0, 0.0]), consistency_metric="mixture")
    return lambda **levels: game.replace(**levels)


def classified(found, swept):
    grid = np.stack(np.meshgrid(*swept.axes.values(), indexing="ij"), -1).reshape(-1, 2)
    return (found.excluded_at(grid).reshape(swept.excluded.shape) != swept.excluded).any(-1)


@pytest.mark.parametrize("agents", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_polygons_cover_the_box_and_agree_with_the_sweep(survey, rng, agents):
    direction = 0.1 * rng.normal(size=7)
    targets = None if agents == 1 else rng.dirichlet(20 * np.asarray(survey.shares), agents)
    game = survey.game(agents, targets=targets, diversity=0.1)
    build = lambda a, b: game.replace(attractiveness=1.0, appeal=a * game.appeal + b * jnp.asarray(direction)[None])  # noqa: E731
    box = {"a": (0, 1), "b": (-1.0, 1.0)}
    found = jg.regions(build, box)
    assert found.covered == pytest.approx(1, abs=1e-9)  # no gaps, no overlaps
    assert all(region.area > 0 for region in found.regions)
    swept = jg.sweep(build, {name: np.linspace(low, high, 41) for name, (low, high) in box.items()}, tolerance=0)
    assert classified(found, swept).sum() == 0
    kinds = {region.excluded for region in found.regions}
    assert len(kinds) > 4 and kinds >= {
        tuple(np.flatnonzero(row)) for row in np.unique(swept.excluded.reshape(-1, 7), axis=0)
    }
    for region in found.regions[:5]:  # the middle of a polygon has its support
        profile = jg.solve(build(*region.corners.mean(0))).profile
        np.testing.assert_array_equal(np.asarray(profile) > 1e-12, region.support)
    # On a line through the box, the exclusions of the path lie on the polygons' boundaries.
    path = jg.path(lambda s: build(s, 0.3), 0, 1)
    for s, group, _ in path.exclusions:
        ends = found.boundaries[group]
        crossing = ends[(ends[:, :, 1].min(1) <= 0.3) & (ends[:, :, 1].max(1) >= 0.3)]
        low, high = crossing[:, 0], crossing[:, 1]
        at = low[:, 0] + (0.3 - low[:, 1]) / (high[:, 1] - low[:, 1]) * (high[:, 0] - low[:, 0])
        assert np.abs(at - s).min() < 1e-9


def test_ties_along_edges():
    # Groups 2 and 3 are alike: both leave at a line, all agents at once (w_2 = w_3 = 1/3 − x/3 + y/6 …).
    build = lambda x, y: jg.AlignmentGame(  # noqa: E731
        jnp.full((3, 3), 1 / 3), jnp.eye(3), jnp.stack([x - y, jnp.zeros_like(x), jnp.zeros_like(x)])
    )
    found = jg.regions(lambda x, y: build(jnp.asarray(x), jnp.asarray(y)), {"x": (0, 2), "y": (0, 0.4)})
    assert found.covered == pytest.approx(1, abs=1e-12)
    assert {region.excluded for region in found.regions} == {(), (1, 2)}
    points = np.array([[0.9, 0.0], [1.1, 0.0], [1.3, 0.4], [1.5, 0.4]])
    np.testing.assert_array_equal(found.excluded_at(points)[:, 1], [False, True, False, True])
    for segment in np.concatenate(found.boundaries[1:]):
        np.testing.assert_allclose(segment[:, 0] - segment[:, 1], 1, atol=1e-12)  # x − y = 1


def test_an_edge_through_a_corner_of_the_box():
    # Group 1 is out iff x − y ≥ 1, which meets the box in its corner (2, 1) and ends in (3, 2).
    game = jg.AlignmentGame(np.full((1, 2), 0.5), np.eye(2), np.zeros(2))
    build = lambda x, y: game.replace(appeal=jnp.stack([jnp.asarray(x - y), jnp.zeros(())])[None])  # noqa: E731
    found = jg.regions(build, {"x": (2.0, 3.0), "y": (1.0, 2.0)})
    assert found.covered == pytest.approx(1, abs=1e-12)
    points = np.array([[2.8, 1.2], [2.2, 1.8], [2.51, 1.5], [2.49, 1.5]])
    np.testing.assert_array_equal(found.excluded_at(points)[:, 1], points[:, 0] - points[:, 1] >= 1)
    for region in found.regions:
        assert np.linalg.norm(region.corners - np.roll(region.corners, 1, 0), axis=1).min() > 1e-12


def test_clipping_goes_on_past_a_constraint_that_almost_holds():
    # The first is constant and short of zero by less than the tolerance; the second cuts the square in half.
    value, slope = np.array([-9e-7, -0.5]), np.array([[0.0, 1.0], [0.0, 0.0]])
    polygon = _clipped(value, slope, 1e-6)
    np.testing.assert_allclose(polygon[:, 0].min(), 0.5)
    np.testing.assert_allclose(polygon.max(0), 1)


def test_regions_refuse_products_and_boxes_that_are_none(survey):
    game = survey.game(3)
    product = lambda a, b: game.replace(attractiveness=a, appeal=game.appeal * b)  # noqa: E731
    with pytest.raises(ValueError, match="affine in the parameter"):
        jg.regions(product, {"a": (0, 1), "b": (0, 1)})
    bent = lambda a, b: game.replace(attractiveness=a + b + max(a + b - 1, 0))  # noqa: E731
    with pytest.raises(ValueError, match="affine in the parameter"):  # in the far half of the box only
        jg.regions(bent, {"a": (0, 1), "b": (0, 1)})
    for axes, words in (
        ({"a": (0, 1)}, "expected two"),
        ({"a": (1, 0), "b": (0, 1)}, "low < high"),
        ({"a": (0, np.nan), "b": (0, 1)}, "low < high"),
        ({"a": (0, 1), "c": (0, 1)}, "axis 'c' is no parameter of build"),
        (None, "axes is None, expected a dict of two names"),
    ):
        with pytest.raises(ValueError, match=words):
            jg.regions(product, axes)  # pyright: ignore[reportArgumentType]


def test_boundaries_of_a_grid_are_exact():
    build = two_groups()
    swept = jg.sweep(
        build, {"attractiveness": np.linspace(0, 3, 13), "diversity": np.linspace(-0.5, 2, 11)}, tolerance=0
    )
    edges = jg.boundaries(build, swept)
    assert len(edges.crossings[0]) == 0 and len(edges.crossings[1]) > 10
    alpha, delta = edges.crossings[1].T
    np.testing.assert_allclose(alpha, 1 + 0.6 * delta, atol=2e-10)
    alpha, delta = edges.segments[1].reshape(-1, 2).T
    np.testing.assert_allclose(alpha, 1 + 0.6 * delta, atol=2e-10)
    with pytest.raises(ValueError, match="a sweep over two axes"):
        jg.boundaries(build, swept.sel(diversity=0))


@pytest.mark.slow
def test_the_survey_s_boundaries_are_its_critical_ratios(survey):
    game = survey.game(8)
    build = lambda **levels: game.replace(**levels)  # noqa: E731
    swept = jg.sweep(build, {"attractiveness": np.linspace(0, 1, 15), "diversity": np.linspace(0, 0.5, 6)}, tolerance=0)
    edges = jg.boundaries(build, swept)
    ratios = np.array([jg.critical_ratios(game.replace(diversity=d)) for d in swept.axes["diversity"]])
    seen = 0
    for d, points in enumerate(edges.crossings):
        for alpha, delta in points:
            row = np.flatnonzero(np.isclose(swept.axes["diversity"], delta))
            if row.size:  # on an edge along α
                assert alpha == pytest.approx(ratios[row[0], d], abs=2e-10)
                seen += 1
    assert seen >= 15
    expected = swept.axes["attractiveness"][:, None, None] > ratios[None]
    assert (expected != swept.excluded).sum() == 0


@pytest.mark.slow
def test_thresholds_along_a_nonlinear_parameter():
    build = two_groups()
    # Along δ: out while α ≥ 1 + 0.6 δ; along γ (δ = 0): out while α ≥ γ.
    found = jg.thresholds(lambda s: build(attractiveness=1.3, diversity=s), 0, 2)
    assert [(f.group, f.kind) for f in found] == [(1, "enters")]
    assert found[0].s == pytest.approx(0.5, abs=2e-10)
    found = jg.thresholds(lambda s: build(attractiveness=0.7, consistency=s), 0.1, 2)
    assert found[0].s == pytest.approx(0.7, abs=2e-10)


def test_thresholds_find_what_happens_between_two_points():
    # Group 2 is in only while (s − 0.5123)² < 1e-4: shorter than the first grid's spacing.
    build = two_groups()
    found = jg.thresholds(lambda s: build(attractiveness=1.0 + 10 * ((s - 0.5123) ** 2 - 1e-4)), 0, 1)
    assert [f.kind for f in found] == ["enters", "leaves"]
    np.testing.assert_allclose([f.s for f in found], [0.5023, 0.5223], atol=1e-9)


@pytest.mark.slow
def test_one_point_without_an_equilibrium_costs_no_other_boundary(monkeypatch):
    axes = {"attractiveness": np.linspace(0, 3, 7), "diversity": np.linspace(-0.5, 2, 4)}
    swept = jg.sweep(two_groups(), axes, tolerance=0)
    whole = jg.boundaries(two_groups(), swept)
    peaks = Follower.peaks

    def spoiled(self, values):
        found = peaks(self, values)
        last = next(reversed(values.values()))
        found[np.isclose(last, axes["diversity"][1])] = np.nan
        return found

    monkeypatch.setattr(Follower, "peaks", spoiled)
    some = jg.boundaries(two_groups(), swept)
    left = ~np.isclose(whole.crossings[1][:, 1], axes["diversity"][1])
    assert 0 < left.sum() < len(left)
    np.testing.assert_array_equal(some.crossings[1], whole.crossings[1][left])
    assert len(some.segments[1]) < len(whole.segments[1])


def test_what_fails_is_told_from_what_is_found():
    follower = Follower(two_groups(), {"attractiveness": np.array([0.3, 2.0])}, None, None, 1, 0)
    peaks = follower.peaks({"attractiveness": np.array([0.3, np.nan])})
    assert np.isnan(peaks[1]).all()
    with pytest.raises(ValueError, match="no equilibrium was found near s"):
        jg.thresholds(lambda s: two_groups()(attractiveness=s + jnp.where(s > 0.5, jnp.nan, 0.0)), 0, 1)


@pytest.mark.parametrize("tolerance", [np.nan, -1e-3])
def test_thresholds_need_a_tolerance(tolerance):
    with pytest.raises(ValueError, match="expected a number ≥ 0"):
        jg.thresholds(lambda s: two_groups()(attractiveness=s), 0, 2, tolerance=tolerance)


@pytest.mark.float32
def test_thresholds_with_numbers_of_another_precision(dtype):
    half, kernel = np.full((3, 2), 0.5, dtype), np.asarray([[1, 0.4], [0.4, 1]], dtype)
    game = jg.AlignmentGame(half, kernel, np.asarray([1, 0], dtype), consistency_metric="mixture")
    ((s, group, kind),) = jg.thresholds(lambda s: game.replace(attractiveness=s), 0, 2)
    assert (group, kind) == (1, "leaves") and s == pytest.approx(1, abs=1e-9 if dtype == np.float64 else 1e-5)


def test_thresholds_refuse_what_is_not_unique(survey):
    with pytest.raises(ValueError, match="not proved to be the only one"):
        jg.thresholds(lambda s: survey.game(3, diversity=s), 0, 50)
    with pytest.raises(ValueError, match="build is 3, expected a function"):
        jg.thresholds(3, 0, 1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="the first below the second"):
        jg.thresholds(lambda s: survey.game(3, diversity=s), 1, 0)


@pytest.mark.float32
def test_boundaries_in_single_precision(dtype):
    kernel = np.asarray([[1, 0.4], [0.4, 1]], dtype)
    half = np.full((3, 2), 0.5, dtype)
    game = jg.AlignmentGame(half, kernel, np.asarray([1, 0], dtype), consistency_metric="mixture")
    axes = {name: np.linspace(0, 2, 5, dtype=dtype) for name in ("attractiveness", "diversity")}
    swept = jg.sweep(lambda **levels: game.replace(**levels), axes, tolerance=0)
    edges = jg.boundaries(lambda **levels: game.replace(**levels), swept)
    alpha, delta = edges.crossings[1].T
    np.testing.assert_allclose(alpha, 1 + 0.6 * delta, atol=1e-9 if dtype == np.float64 else 1e-5)


def legend(figure):
    found = figure.axes[0].get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


@pytest.mark.slow
def test_figures_of_sweeps(survey, tmp_path):
    from jaxgame.report.figures.phase import draw
    from jaxgame.report.figures.style import save

    game = survey.game(4)
    build = lambda **levels: game.replace(**levels)  # noqa: E731
    swept = jg.sweep(
        build, {"attractiveness": np.linspace(0, 1, 6), "diversity": np.linspace(0, 8, 5)}, groups=survey.groups
    )
    assert not swept.unique.all()
    figure = draw(swept, "Title", "note", jg.boundaries(build, swept).segments)
    assert save(figure, tmp_path, "phase") == "Title"
    words = legend(figure)
    assert "uniqueness not proved" in words and any("left out" in word for word in words)
    assert (tmp_path / "phase.png").stat().st_size > 10_000 and (tmp_path / "phase.svg").exists()
    assert swept.sel(diversity=0).representation.shape == (6, 7)
    line = draw(swept.sel(diversity=0), "Title", "note")
    assert legend(line) == list(survey.groups)
    page = swept._repr_html_()
    assert "slightly conservative" in page and "data:image/png;base64," in page and "<script" not in page
    with pytest.raises(ValueError, match="one or two axes"):
        draw(swept.sel(diversity=0, attractiveness=0), "Title", "note")


def test_mapping_under_jit_of_build_costs_no_retrace(survey):
    traces = []

    def build(attractiveness):
        traces.append(attractiveness)
        return survey.game(3, attractiveness=attractiveness)

    jg.sweep(build, {"attractiveness": np.linspace(0, 1, 100)})
    assert len(traces) <= 8 and all(isinstance(x, Tracer) for x in traces)
