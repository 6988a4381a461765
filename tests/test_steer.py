"""steer(): on functions with known minima, then on games, against closed forms, scipy and brute force."""

# Stand-ins for equilibria and problems, and arguments that are wrong on purpose.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false

import importlib
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from jax.tree_util import Partial
from scipy.optimize import minimize, nnls

import jaxgame as jg
from jaxgame.steering import descent, desert, objectives, quasi_newton, stationarity
from jaxgame.steering.barrier import smoothed
from jaxgame.steering.problem import EXACT, Point
from jaxgame.steering.search import OutOfSteps, Search
from jaxgame.steering.steer import steer

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


# --- descent on functions -------------------------------------------------------------------------


class Function:
    """A function of a vector in the place of a problem: f(x) -> (value, gradient)."""

    scenarios = None

    def __init__(self, f, start, project=None):
        self.f, self.constraint = f, project
        self.levers = SimpleNamespace(start=np.asarray(start, float), dtype=np.dtype(float))
        self.start = np.zeros(1)

    def evaluate(self, theta, start=None, merit=EXACT):
        value, gradient = self.f(theta)
        found = SimpleNamespace(profile=None, residual=0.0)
        return Point(theta, float(value), np.asarray(gradient, float), float(value), 0.0, found, None, True)

    def project(self, theta):
        return theta if self.constraint is None else self.constraint(theta)

    def signed(self, point):
        return point.theta


def minimised(f, start, project=None, max_steps=500):
    problem = Function(f, start, project)
    point = problem.evaluate(problem.project(problem.levers.start))
    search = Search(problem, point, max_steps)
    return *descent.minimise(search, point), search


def rosenbrock(x):
    a, b = 1 - x[0], x[1] - x[0] ** 2
    return a**2 + 100 * b**2, np.array([-2 * a - 400 * x[0] * b, 200 * b])


def quadratic(condition, dim=12):
    rng = np.random.default_rng(5)
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    matrix, centre = basis @ np.diag(np.geomspace(1, condition, dim)) @ basis.T, rng.normal(size=dim)
    return lambda x: (0.5 * (x - centre) @ matrix @ (x - centre), matrix @ (x - centre)), matrix, centre


def piecewise(x):
    """max of three quadratics and an absolute value; smooth nowhere along x₁ = 0."""
    pieces = [(x[0] - 1) ** 2 + x[1] ** 2, (x[0] + 1) ** 2 + x[1] ** 2, 1 + 0.3 * x[1]]
    slopes = [np.array([2 * (x[0] - 1), 2 * x[1]]), np.array([2 * (x[0] + 1), 2 * x[1]]), np.array([0, 0.3])]
    k = int(np.argmax(pieces))
    return pieces[k] + 0.5 * abs(x[1] + 0.2), slopes[k] + np.array([0, 0.5 * np.sign(x[1] + 0.2)])


def test_smooth_minima():
    point, proof, _ = minimised(rosenbrock, [-1.2, 1.0])
    np.testing.assert_allclose(point.theta, 1, atol=1e-6)
    assert proof.stationary and proof.smooth
    f, _, centre = quadratic(1e3)
    point, proof, _ = minimised(f, np.zeros(12))
    np.testing.assert_allclose(point.theta, centre, atol=1e-6)
    assert proof.stationary


def test_minima_at_kinks():
    """Against a grid; the proof says that one gradient would not do."""
    point, proof, _ = minimised(piecewise, [1.3, 0.9])
    axis = np.linspace(-0.5, 0.5, 401)
    grid = min((piecewise(np.array([a, b]))[0], a, b) for a in axis for b in axis)
    assert point.value <= grid[0] + 1e-7
    np.testing.assert_allclose(point.theta, grid[1:], atol=3e-3)
    assert proof.stationary and not proof.smooth and proof.gradients > 1


def test_many_kinks():
    """Σ w_k |x_k − c_k|: a kink in every direction."""
    rng = np.random.default_rng(0)
    weights, centre = rng.uniform(0.5, 3, 8), rng.normal(size=8)
    point, proof, _ = minimised(
        lambda x: ((weights * np.abs(x - centre)).sum(), weights * np.sign(x - centre)), np.zeros(8)
    )
    np.testing.assert_allclose(point.theta, centre, atol=1e-4)
    assert proof.stationary and not proof.smooth


def test_no_proof_where_there_is_descent():
    """Close to a kink, on a slope, in a valley of many levers: not stationary within the radius."""
    for f, x in (
        (lambda x: (np.abs(x).sum(), np.sign(x)), np.array([1e-3, 2.0])),
        (lambda x: (x[0], np.array([1.0, 0.0])), np.zeros(2)),
        (piecewise, np.array([0.0, 0.3])),
        (rosenbrock, np.array([0.9, 0.81])),
    ):
        problem = Function(f, x)
        search = Search(problem, problem.evaluate(x), 10)
        search.size = 1.0
        lower = stationarity.examine(search, search.best, EXACT, 1e-5)
        assert isinstance(lower, Point) and lower.value < f(x)[0]


def box(x):
    return np.clip(x, -0.3, 0.4)


def ball(x):
    return x * min(1, 0.5 / max(np.linalg.norm(x), 1e-300))


@pytest.mark.parametrize("project", [box, ball, stationarity.onto_simplex], ids=["box", "ball", "simplex"])
def test_constrained_minima(project):
    """A convex quadratic with its minimum outside, against scipy's SLSQP."""
    f, _, centre = quadratic(100, 6)
    constraints = {
        box: dict(bounds=[(-0.3, 0.4)] * 6),
        ball: dict(constraints=dict(type="ineq", fun=lambda x: 0.25 - x @ x)),
        stationarity.onto_simplex: dict(bounds=[(0, 1)] * 6, constraints=dict(type="eq", fun=lambda x: x.sum() - 1)),
    }
    wanted = minimize(
        f, project(np.zeros(6)), jac=True, method="SLSQP", options=dict(ftol=1e-15), **constraints[project]
    )
    assert np.abs(project(centre) - centre).max() > 0.1
    point, proof, _ = minimised(f, np.zeros(6), project)
    np.testing.assert_allclose(point.theta, wanted.x, atol=1e-5)
    assert proof.stationary and proof.smooth


def test_kinks_under_a_constraint():
    point, proof, _ = minimised(lambda x: (np.abs(x - [2, 0, 0]).sum(), np.sign(x - [2, 0, 0])), [0.2, 0.2, 0.6], ball)
    np.testing.assert_allclose(point.theta, [0.5, 0, 0], atol=1e-4)
    assert proof.stationary


@pytest.mark.parametrize(("value", "unit"), [(1e9, 1.0), (1e-9, 1.0), (1.0, 1e5), (1e6, 1e-6)])
def test_units_do_not_matter(value, unit):
    """Objective and levers in other units: the same minimum after about as many evaluations."""

    def other(x):
        at, slope = piecewise(x / unit)
        return value * at, value / unit * slope

    def in_mixtures(x):  # what signed representation is made of has no unit
        return x / unit

    plain, _, search = minimised(piecewise, [1.3, 0.9])
    problem = Function(other, [1.3 * unit, 0.9 * unit])
    problem.signed = lambda point: in_mixtures(point.theta)
    again = Search(problem, problem.evaluate(problem.levers.start), 500)
    point, proof = descent.minimise(again, again.best)
    np.testing.assert_allclose(point.theta / unit, plain.theta, atol=1e-4)
    assert proof.stationary and abs(again.evaluations - search.evaluations) <= 0.5 * search.evaluations


def test_a_spent_budget():
    with pytest.raises(OutOfSteps):
        minimised(rosenbrock, [-1.2, 1.0], max_steps=3)


def test_shortest_vector_in_a_hull(rng):
    """Against non-negative least squares with the sum as a heavy row."""
    for k, dim in ((2, 5), (5, 3), (8, 8)):
        gradients = rng.normal(size=(k, dim)) + 0.4
        heavy = np.vstack([gradients.T, 1e6 * np.ones(k)])
        weights, _ = nnls(heavy, np.append(np.zeros(dim), 1e6))
        shortest = gradients.T @ weights
        move = stationarity.combine(lambda x: x, np.zeros(dim), gradients, 1.0, 0.0)
        # It stops early, where every gradient promises at least half of the best descent.
        assert np.linalg.norm(move) >= np.linalg.norm(shortest) - 1e-6
        assert (gradients @ move).max() <= -0.5 * move @ move + 1e-9


def test_curvature_is_bfgs(rng):
    """Against the textbook recursion with a dense matrix."""
    dim, learnt = 6, quasi_newton.Curvature(1.0)
    hessian = np.diag(np.arange(1.0, dim + 1))
    pairs = [(s, hessian @ s) for s in rng.normal(size=(4, dim))]
    for s, y in pairs:
        learnt.learn(s, y)
    learnt.learn(pairs[0][0], -pairs[0][1])  # negative curvature is left out
    s, y = pairs[-1]
    dense = (y @ y) / (s @ y) * np.eye(dim)
    for s, y in pairs:
        dense = dense - np.outer(dense @ s, dense @ s) / (s @ dense @ s) + np.outer(y, y) / (y @ s)
    v = rng.normal(size=dim)
    np.testing.assert_allclose(learnt.product(v), dense @ v, rtol=1e-9)
    np.testing.assert_allclose(learnt.inverse(v), np.linalg.solve(dense, v), rtol=1e-9)


# --- games ----------------------------------------------------------------------------------------
# Module-level functions with their numbers in `Partial`s: every test below shares what is compiled.

N, D = 4, 3
SPEC = ref.random_alignment(np.random.default_rng(4), N, D, attractiveness=0.8)


def with_appeal(game, change):
    return game.replace(appeal=game.appeal + change["common"][None, :])


def weighted_distance(weight, target, equilibrium):
    return weight * ((equilibrium.representation - target) ** 2).sum()


def quadratic_cost(weight, change):
    return weight * (change["common"] ** 2).sum()


def the_game(dtype=np.float64):
    from zoo import to_game

    return to_game(SPEC, dtype)


def setting(dtype=np.float64, weight=1.0, price=1e-3, target=(0.2, 0.3, 0.5)):
    """Arguments of `steer` but for what a test adds."""
    return dict(
        build=Partial(with_appeal, the_game(dtype)),
        theta={"common": jnp.zeros(D, dtype)},
        objective=Partial(weighted_distance, jnp.asarray(weight, dtype), jnp.asarray(target, dtype)),
        cost=Partial(quadratic_cost, jnp.asarray(price, dtype)),
    )


def shown(common):
    """The representation by the reference solver."""
    return SPEC.replace(appeal=np.asarray(SPEC.appeal) + common[None]).representation(
        ref.solution(SPEC.replace(appeal=np.asarray(SPEC.appeal) + common[None]))
    )


def total(common, weight=1.0, price=1e-3, target=(0.2, 0.3, 0.5)):
    return weight * ((shown(common) - target) ** 2).sum() + price * (common**2).sum()


@pytest.fixture(scope="module")
def plan():
    return steer(**setting())


def test_against_scipy(plan):
    """A derivative-free search on the reference solver finds nothing lower."""
    assert plan.success, plan.message
    found = np.asarray(plan.theta["common"])
    best = minimize(total, found, method="Nelder-Mead", options=dict(xatol=1e-7, fatol=1e-13, maxiter=400))
    assert total(found) <= best.fun + 1e-10
    np.testing.assert_allclose(found, best.x, atol=1e-4)
    assert total(found) < 0.5 * total(np.zeros(D))


def test_what_a_plan_holds(plan):
    """Before, after, cost, history and proof, each against its own definition."""
    np.testing.assert_allclose(plan.before.representation, shown(np.zeros(D)), atol=1e-9)
    found = np.asarray(plan.theta["common"])
    np.testing.assert_allclose(plan.equilibrium.representation, shown(found), atol=1e-9)
    np.testing.assert_allclose(plan.cost, 1e-3 * (found**2).sum(), rtol=1e-12)
    assert plan.lever == "theta" and plan.certificate.unique
    steps = {name: column.shape for name, column in plan.history.items()}
    assert len(set(steps.values())) == 1 and steps["total"] == (sum(plan.details["phases"].values()),)
    np.testing.assert_allclose(plan.history["objective"] + plan.history["cost"], plan.history["total"], rtol=1e-12)
    np.testing.assert_allclose(plan.history["total"].min(), total(found), rtol=1e-8)
    assert plan.details["verification"].solver == "GoldenRatio" and plan.details["verification"].distance < 1e-8
    for words in ("Stationary after", "Verified by a fresh solve with GoldenRatio", "unique"):
        assert words in plan.message


def test_units_of_objective_and_cost(plan):
    other = steer(**setting(weight=1e7, price=1e4))
    assert other.success
    np.testing.assert_allclose(other.theta["common"], plan.theta["common"], atol=1e-5)
    assert len(other.history["total"]) <= 2 * len(plan.history["total"]) + 5


@pytest.mark.float32
def test_precision(dtype):
    plan = steer(**setting(dtype))
    assert plan.success, plan.message
    assert plan.theta["common"].dtype == dtype and plan.equilibrium.profile.dtype == dtype
    atol = 5e-3 if dtype == np.float32 else 1e-6
    best = minimize(total, np.asarray(plan.theta["common"], float), method="Nelder-Mead", options=dict(maxiter=300))
    assert total(np.asarray(plan.theta["common"], float)) <= best.fun + atol**2


@pytest.mark.parametrize(
    "constraint",
    [
        lambda t: jax.tree.map(lambda x: jnp.clip(x, -0.05, 0.1), t),
        lambda t: {"common": optax.projections.projection_simplex(t["common"], 0.2)},
        lambda t: optax.projections.projection_l2_ball(t, 0.1),
    ],
    ids=["box", "simplex", "ball"],
)
def test_constraints(constraint):
    """Allowed, and no allowed levers nearby are better (reference solver)."""
    plan = steer(**setting(price=0.0), constraint=constraint)
    assert plan.success, plan.message
    found = np.asarray(plan.theta["common"])

    def allowed(common):
        with jax.numpy_dtype_promotion("standard"):  # as optax's projections are written
            return np.asarray(constraint({"common": jnp.asarray(common)})["common"])

    np.testing.assert_allclose(allowed(found), found, atol=1e-9)
    rng = np.random.default_rng(1)
    here = total(found, price=0.0)
    for size in (0.1, 1e-2, 1e-3):
        for _ in range(20):
            assert total(allowed(found + size * rng.normal(size=D)), price=0.0) >= here - 1e-9
    free = total(np.asarray(steer(**setting(price=0.0)).theta["common"]), price=0.0)
    assert here > free + 1e-6  # the constraint matters


def test_optimiser(plan):
    """An optax optimiser gets there, too, and says nothing else than the default method."""
    found = steer(**setting(), optimizer=optax.adam(0.1), max_steps=400)
    assert found.success, found.message
    np.testing.assert_allclose(found.theta["common"], plan.theta["common"], atol=1e-4)
    ball = optax.projections.projection_l2_ball
    held = steer(**setting(), optimizer=optax.sgd(1.0), constraint=lambda t: ball(t, 0.05), max_steps=100)
    assert np.linalg.norm(held.theta["common"]) <= 0.05 + 1e-12


def test_too_few_steps_and_resume(plan):
    few = steer(**setting(), max_steps=2)
    assert not few.success and len(few.history["total"]) == 2 and "max_steps" in few.message
    assert few.history["total"][-1] < total(np.zeros(D))
    on = steer(**setting(), resume=few)
    assert on.success, on.message
    np.testing.assert_allclose(on.theta["common"], plan.theta["common"], atol=1e-5)
    np.testing.assert_array_equal(on.history["total"][:2], few.history["total"])
    np.testing.assert_allclose(on.before.representation, shown(np.zeros(D)), atol=1e-9)
    none = steer(**setting(), max_steps=0)
    assert not none.success and not none.history["total"].size
    again = steer(**setting(), resume=plan)  # nothing left to do but to find that out, at rounding
    assert again.success and len(again.history["total"]) < 2 * len(plan.history["total"])
    np.testing.assert_allclose(again.theta["common"], plan.theta["common"], atol=1e-6)


def test_interrupt():
    """Ctrl-C while the goal is asked: the best levers so far, and no success."""
    asked = []

    def goal(equilibrium):
        asked.append(1)
        if len(asked) >= 4:
            raise KeyboardInterrupt
        return False

    plan = steer(**setting(), goal=goal)
    assert not plan.success and "Interrupted" in plan.message and "resume" in plan.message
    np.testing.assert_allclose(plan.history["total"].min(), total(np.asarray(plan.theta["common"])), rtol=1e-8)
    assert plan.history["total"].min() < total(np.zeros(D))
    first = steer(**setting(), goal=lambda equilibrium: (_ for _ in ()).throw(KeyboardInterrupt))
    assert not first.success and "Interrupted" in first.message


def test_goals(plan):
    """Success is what the goal says of the fresh equilibrium; out of reach is said, with the nearest."""
    near = steer(**setting(), goal=lambda e: e.representation[2] > plan.equilibrium.representation[2] - 1e-3)
    assert near.success and "The goal is met." in near.message
    far = steer(**setting(), goal=lambda e: e.representation[2] > 0.9, max_steps=60)
    assert not far.success and "The goal is not met" in far.message
    assert far.history["total"].min() <= plan.history["total"].min() + 1e-9


def test_starts_from_which_there_is_no_way():
    """A cost without a derivative at its start; a game without an equilibrium there: each said as it is."""
    plan = steer(**setting() | dict(cost=lambda change: 1e-3 * jnp.linalg.norm(change["common"])))
    assert not plan.success and "derivative of objective + cost is not finite" in plan.message
    assert "descent" not in plan.message and not np.asarray(plan.theta["common"]).any()
    assert "The levers are as they were." in plan.guidance() and "Nothing has to" not in plan.guidance()

    def overflowing(change):
        game = the_game()
        return game.replace(appeal=1e300 * (game.appeal + change["common"][None]), attractiveness=1e300)

    lost = steer(**setting() | dict(build=overflowing))
    assert not lost.success and "no equilibrium that was found at the levers" in lost.message


def test_words_at_the_end():
    """What is stationary under a constraint need not have a gradient of 0; a goal may be met before that is proved."""
    held = steer(**setting(price=0.0), constraint=lambda t: jax.tree.map(lambda x: jnp.clip(x, -1e-3, 1e-3), t))
    assert held.success and "gradient vanishes" not in held.message and "Stationary" in held.message
    met = steer(**setting(), goal=lambda e: True, max_steps=1)
    assert not met.success and met.details["goal_met"] and "Out of steps" in met.message
    assert met.guidance().startswith("This plan meets the goal; that no small change of it is better is not proved.")


def test_the_evaluation_budget_is_named(monkeypatch):
    monkeypatch.setattr("jaxgame.steering.search.START_EVALUATIONS", 3)
    monkeypatch.setattr("jaxgame.steering.search.EVALUATIONS_PER_STEP", 0)
    plan = steer(**setting(), max_steps=50)
    assert not plan.success and "The evaluation budget ran out: max_steps 50 allows 3 solves" in plan.message


def test_two_groups_in_closed_form():
    """Theory §3.3: w₁ = clip(½ + (γ(t₁ − t₂) + α(a₁ − a₂)) / (2(γ + δ(1 − ρ))), 0, 1), with a price on a₁ − a₂."""
    alpha, gamma, delta, rho, target, price = 0.7, 1.2, 0.4, 0.3, 0.4, 0.05
    game = jg.AlignmentGame(
        jnp.full((3, 2), 0.5),
        jnp.asarray([[1, rho], [rho, 1]]),
        jnp.zeros(2),
        attractiveness=alpha,
        consistency=gamma,
        diversity=delta,
        consistency_metric="mixture",
    )
    plan = steer(
        lambda gap: game.replace(appeal=jnp.stack([gap, jnp.zeros_like(gap)])),
        jnp.asarray(5.0),  # where group 2 is excluded
        objective=lambda e: (e.representation[0] - target) ** 2,
        cost=lambda gap: price * gap**2,
    )
    slope = alpha / (2 * (gamma + delta * (1 - rho)))
    wanted = slope * (target - 0.5) / (slope**2 + price)
    assert plan.success, plan.message
    np.testing.assert_allclose(plan.before.representation, [1, 0], atol=1e-12)
    np.testing.assert_allclose(plan.theta, wanted, atol=1e-7)
    np.testing.assert_allclose(plan.equilibrium.representation[0], 0.5 + slope * wanted, atol=1e-7)


def test_the_least_represented_group():
    """max min_d S_d within a budget: a kink; against a fine grid of the sphere by the reference solver."""
    radius = 0.15
    plan = steer(
        Partial(with_appeal, the_game()),
        {"common": jnp.zeros(D)},
        objective=objectives.minus(objectives.minimum_representation()),
        constraint=lambda t: optax.projections.projection_l2_ball(t, radius),
    )
    assert plan.success, plan.message
    # A multiple of 1 changes nothing, so the best levers are in the plane of sum 0.
    plane = np.linalg.svd(np.ones((1, D)))[2][1:]
    angles = np.linspace(0, 2 * np.pi, 181)
    grid = max(
        shown(r * np.array([np.cos(a), np.sin(a)]) @ plane).min() for a in angles for r in (radius, 0.7 * radius)
    )
    assert float(plan.equilibrium.representation.min()) >= grid - 1e-9
    assert grid > float(plan.before.representation.min()) + 1e-3
    np.testing.assert_allclose(
        -plan.history["objective"].min(), shown(np.asarray(plan.theta["common"])).min(), atol=1e-8
    )


BAD_INPUT = [
    (dict(theta={}), "theta has no arrays"),
    (dict(theta={"common": jnp.zeros(D, int)}), "theta['common'] has dtype int"),
    (dict(theta={"common": np.array([0, np.nan, 0])}), "theta['common'] is not finite"),
    (dict(theta={"common": "appeal"}), "theta['common']"),
    (dict(objective=lambda e: e.representation), "objective returns"),
    (dict(objective=lambda e: "good"), "objective returns str"),
    (dict(objective=Partial(weighted_distance, jnp.asarray(np.nan, float), jnp.zeros(D))), "objective is nan"),
    (dict(cost=lambda t: t["common"]), "cost returns"),
    (dict(constraint=lambda t: t["common"]), "constraint"),
    (dict(constraint=lambda t: {"common": t["common"][:2]}), "constraint"),
    (dict(constraint=lambda t: {"common": t["common"] * jnp.nan}), "may be empty"),
    (dict(max_steps=-1), "max_steps"),
    (dict(confidence=0.0), "confidence"),
    (dict(risk="median"), "risk"),
    (dict(scenarios=jnp.zeros(())), "scenarios"),
    (dict(fresh=jnp.zeros((2, D))), "fresh"),
    (dict(objective=None), "objective is None, expected a function"),
    (dict(cost=3.0), "cost is 3.0, expected a function or None"),
    (dict(optimizer="adam"), "optimizer is 'adam', expected an optax.GradientTransformation"),
    (dict(resume=3), "resume is 3, expected the plan"),
    (dict(build=lambda change: change), "build returns dict, expected a game"),
]


def test_bad_input():
    for change, words in BAD_INPUT:
        with pytest.raises(ValueError) as error:
            steer(**setting() | change)
        assert words in str(error.value)


@pytest.mark.slow
def test_levers_without_an_equilibrium():
    """A game that breaks beyond some levers: taken back, said, and not in the plan."""

    def build(change):
        broken = jnp.where(change["common"][2] > 0.02, jnp.nan, 0.0)
        return with_appeal(the_game(), change | {"common": change["common"] + broken})

    arguments = setting(price=1e-3) | dict(build=build)
    plan = steer(**arguments, max_steps=40)
    assert float(plan.theta["common"][2]) <= 0.02 and np.isfinite(plan.history["total"]).all()
    assert plan.details["failures"] > 0 and "taken back" in plan.message
    with pytest.raises(ValueError, match=r"appeal\[0, 0\] is nan"):  # what the game's constructor says
        steer(**arguments | dict(theta={"common": jnp.asarray([0, 0, 0.5])}))


def rooted(params, mixture, others):
    return params["value"] @ jnp.sqrt(mixture + params["shift"])


@pytest.mark.slow
def test_utilities_of_ones_own():
    """Σ v_d √(w_d + s) has w_d + s in proportion to v_d²: the lever s that gives a wanted share is a formula.

    And where the utilities are not numbers there is no equilibrium to start from: no step, no success, no error.
    """
    value, target = np.array([1.0, 2.0]), 0.35
    p = value[0] ** 2 / (value**2).sum()

    def build(shift):
        rows = {"value": jnp.broadcast_to(value, (3, 2)), "shift": jnp.broadcast_to(shift, (3,))}
        return jg.ConcaveGame(rooted, rows, 2)

    def objective(equilibrium):
        return (equilibrium.representation[0] - target) ** 2

    plan = steer(build, jnp.asarray(0.01), objective=objective)
    assert plan.success, plan.message
    np.testing.assert_allclose(plan.before.representation[0], p + 0.01 * (2 * p - 1), atol=1e-8)
    np.testing.assert_allclose(plan.theta, (target - p) / (2 * p - 1), atol=1e-6)
    assert "not proved" in plan.message  # that it is the only equilibrium
    nowhere = steer(build, jnp.asarray(-2.0), objective=objective)
    assert not nowhere.success and not nowhere.history["total"].size and "Not verified" in nowhere.message


# --- the desert -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark():
    """The benchmark's own games."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("desert")


def crossed(benchmark, seed):
    game, lever, start, floors = benchmark.draw(seed)
    build, goal = Partial(benchmark.BUILD[lever], game), lambda e: benchmark.reached(e, floors)
    objective = objectives.shortfall(benchmark.MARGIN * floors)
    constraint = benchmark.CONSTRAINT[lever]
    plan = steer(build, start, objective=objective, constraint=constraint, goal=goal)
    return plan, build, floors


def test_out_of_the_desert(benchmark):
    """Games whose start excludes a group, at its floor in a solve that knows nothing of the plan."""
    for seed in (0, 6, 12):
        plan, build, floors = crossed(benchmark, seed)
        assert jg.excluded(plan.before).any()
        assert plan.success, plan.message
        fresh = jg.solve(build(plan.theta), jg.OptimisticGradient())
        assert (np.asarray(fresh.representation) >= floors - 1e-9).all()
        if plan.details["phases"]["signed"]:
            assert "signed representation" in plan.message


@pytest.mark.slow
def test_out_of_the_desert_by_targets(benchmark):
    for seed in (3, 9):
        plan, _, floors = crossed(benchmark, seed)
        assert plan.success, plan.message
        np.testing.assert_allclose(plan.theta.sum(1), 1, atol=1e-9)
        assert (plan.theta >= 0).all()


@pytest.mark.slow
def test_the_barrier_when_signed_representation_fails(benchmark, monkeypatch):
    monkeypatch.setattr(desert, "_signed", lambda search, stuck: None)
    plan, _, floors = crossed(benchmark, 0)
    assert plan.success and plan.details["phases"]["barrier"], plan.message
    assert "barrier continuation" in plan.message


@pytest.mark.slow
def test_smoothed_equilibria():
    """The optimality conditions of U + τ Σ log w in numpy, and derivatives by central differences."""
    game, tau = the_game(), 1e-2

    @jax.jit
    def at(change, tau):
        return smoothed(with_appeal(game, {"common": change}), tau, jnp.full((N, D), 1 / D))

    found = at(jnp.zeros(D), jnp.asarray(tau))
    w = np.asarray(found.profile)
    slack = -SPEC.game_map(w) + tau / w
    assert found.converged and np.abs(slack - slack.mean(1, keepdims=True)).max() < 1e-6
    np.testing.assert_allclose(w.sum(1), 1, rtol=1e-12)
    jacobian = jax.jit(jax.jacfwd(lambda c, t: at(c, t).profile, argnums=(0, 1)))(jnp.zeros(D), jnp.asarray(tau))
    for d, step in enumerate(1e-5 * np.eye(D)):
        central = (
            at(jnp.asarray(step), jnp.asarray(tau)).profile - at(jnp.asarray(-step), jnp.asarray(tau)).profile
        ) / 2e-5
        np.testing.assert_allclose(jacobian[0][..., d], central, atol=1e-5)
    central = (
        at(jnp.zeros(D), jnp.asarray(tau + 1e-6)).profile - at(jnp.zeros(D), jnp.asarray(tau - 1e-6)).profile
    ) / 2e-6
    np.testing.assert_allclose(jacobian[1], central, atol=1e-3)


# --- scenarios ------------------------------------------------------------------------------------


def with_noise(game, change, noise):
    return game.replace(appeal=game.appeal + (change["common"] + noise)[None, :])


NOISE = 0.15 * np.random.default_rng(8).normal(size=(6, D))


def robust(risk, **more):
    arguments = setting(price=0.02) | dict(build=Partial(with_noise, the_game()))
    return steer(**arguments, scenarios=jnp.asarray(NOISE), risk=risk, **more)


def risked(common, measure):
    return measure(np.array([((shown(common + noise) - (0.2, 0.3, 0.5)) ** 2).sum() for noise in NOISE])) + 0.02 * (
        common @ common
    )


MEASURES = {
    "mean": np.mean,
    "worst": np.max,
    ("cvar", 0.5): lambda values: np.sort(values)[-3:].mean(),
}


def test_risk():
    """The plan's total is the risk by numpy and the reference solver, and nothing nearby has less."""
    for risk, measure in MEASURES.items():
        plan = robust(risk)
        found = np.asarray(plan.theta["common"])
        assert plan.success, plan.message
        assert plan.equilibrium.profile.shape == (6, N, D)
        here = risked(found, measure)
        np.testing.assert_allclose(plan.history["total"].min(), here, rtol=1e-7)
        rng = np.random.default_rng(2)
        for size in (0.1, 1e-2, 1e-3):
            for _ in range(8):
                assert risked(found + size * rng.normal(size=D), measure) >= here - 1e-8
        values = [((shown(found + noise) - (0.2, 0.3, 0.5)) ** 2).sum() for noise in NOISE]
        assert plan.details["scenario"] == int(np.argmax(values))


def test_fresh_scenarios():
    """The fraction in which the goal holds, by the reference solver; `confidence` is what success asks for."""
    fresh = 0.15 * np.random.default_rng(9).normal(size=(6, D))
    level = 0.25
    plan = robust("mean", goal=lambda e: e.representation[2] > level, fresh=jnp.asarray(fresh), confidence=0.5)
    found = np.asarray(plan.theta["common"])
    holds = np.mean([shown(found + noise)[2] > level for noise in fresh])
    there = np.mean([shown(found + noise)[2] > level for noise in NOISE])
    assert plan.details["robustness"].fraction == holds and plan.details["robustness"].scenarios == 6
    assert plan.success == bool(there >= 0.5) and "fresh scenarios" in plan.message


@pytest.mark.slow
def test_posterior_draws_of_a_survey():
    """Every group at half its share, in scenarios that the survey leaves possible."""
    survey = jg.surveys.load("gss2018-ideology")
    draws = survey.posterior(0, 8)

    def build(attractiveness, draw):
        shares, kernel = draw
        return jg.AlignmentGame(
            jnp.broadcast_to(shares, (10, 7)),
            kernel,
            jnp.einsum("de,e->d", kernel, shares),
            attractiveness=attractiveness,
            diversity=0.1,
            spread=jnp.ones(7),
        )

    def data(surveys):
        return surveys.shares, jax.vmap(lambda s: s.kernel)(surveys)

    floors = 0.5 * survey.shares
    plan = steer(
        build,
        jnp.asarray(0.6),
        objective=objectives.shortfall(1.05 * floors),
        cost=lambda attractiveness: 1e-4 * (attractiveness - 0.6) ** 2,
        constraint=lambda attractiveness: jnp.clip(attractiveness, 0, 2),
        goal=lambda e: bool((e.representation >= floors).all()),
        scenarios=data(draws),
        risk=("cvar", 0.5),
        confidence=0.5,
        fresh=data(survey.posterior(1, 8)),
    )
    robustness = plan.details["robustness"]
    before = np.mean([bool((r >= floors).all()) for r in plan.before.representation])
    after = np.mean([bool((r >= floors).all()) for r in plan.equilibrium.representation])
    assert before < 0.5 <= after and plan.success, plan.message
    assert robustness.fraction > before and robustness.standard_error > 0
