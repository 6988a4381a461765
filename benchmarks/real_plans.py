"""Plans for real people: what brings every group of a survey to half its share, at which price, and how surely.

    python benchmarks/real_plans.py [--draws 200] [--steps 150] [--surveys NAME …] [--output FOLDER]

For each survey, 100 agents aligned to the population, attractiveness just past the second critical ratio α/γ, so that
two groups are left out. Two plans: `steer_to_floor` with lever "common" (one addition to everyone's appeal), which
meets the floors exactly for the survey as it is; and `steer` with scenarios (40 draws of the survey from its
posterior, CVaR of the relative shortfall), whose levers are that addition and the attractiveness of being shown what
one likes. Both are tested on fresh draws: in how many has every group half of its share? Writes real_plans.json,
real_plans.md and a figure a survey.
"""

import argparse
import dataclasses
import pathlib
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxgame as jg
from jaxgame.report.figures.plan import draw
from jaxgame.report.figures.style import save
from jaxgame.surveys import Survey

SURVEYS = ("gss2018-ideology", "gss2018-ideology-age")
AGENTS, CONSISTENCY, DIVERSITY = 100, 1.0, 0.1
PAST = 1.05  # times the second critical ratio
FLOOR = 0.5  # of a group's share
TOLERANCE = 1e-9  # of a share
BATCH = 20  # draws solved at a time
SCENARIOS, SURE, TAIL = 40, 0.9, 0.75  # planned for; wanted; CVaR of the worst quarter
AHEAD = 1.05  # of its floor is what a group is brought to
UNIT = 0.1  # an addition to appeal that counts as much as giving up attractiveness altogether
WEIGHT = 1e-2  # of the levers against the shortfall


def game_of(survey: Survey, attractiveness: Any) -> jg.AlignmentGame:
    return survey.game(AGENTS, attractiveness=attractiveness, consistency=CONSISTENCY, diversity=DIVERSITY)


def changed(theta: dict[str, Array], survey: Survey) -> jg.AlignmentGame:
    game = game_of(survey, theta["attractiveness"])
    return game.replace(appeal=game.appeal + theta["appeal"][None])


def floors(equilibrium: jg.Equilibrium) -> Array:
    return FLOOR * equilibrium.game.targets[0]  # agents are aligned to the shares


def missing(equilibrium: jg.Equilibrium) -> Array:
    """½ Σ_d (how much of its floor group d misses)²."""
    return (jnp.maximum(0, AHEAD - equilibrium.representation / floors(equilibrium)) ** 2).sum() / 2


def reached(equilibrium: jg.Equilibrium) -> Array:
    return (equilibrium.representation >= floors(equilibrium) - TOLERANCE).all()


def effort(theta: dict[str, Array], start: Array) -> Array:
    return WEIGHT * ((theta["appeal"] ** 2).sum() / UNIT**2 + (theta["attractiveness"] / start - 1) ** 2)


@jax.jit
def shown(drawn: Survey, theta: dict[str, Array]) -> tuple[Array, Array]:
    """Representation in every draw, (draws, D), and in which every group has its floor."""

    def one(survey: Survey) -> tuple[Array, Array]:
        equilibrium = jg.solve(changed(theta, survey))
        return equilibrium.representation, equilibrium.converged & reached(equilibrium)

    return jax.lax.map(one, drawn, batch_size=BATCH)


def study(name: str, draws: int, steps: int) -> tuple[dict[str, Any], jg.Plan, np.ndarray]:
    """The numbers, the robust plan on the survey as it is, and the representations of fresh draws under it."""
    survey = jg.surveys.load(name)
    ratios = np.sort(np.asarray(jg.critical_ratios(game_of(survey, 0.0))))
    start = {"appeal": jnp.zeros(len(survey.groups)), "attractiveness": jnp.asarray(PAST * ratios[1] * CONSISTENCY)}
    game, floor = changed(start, survey), FLOOR * survey.shares
    before, fresh = jg.solve(game), survey.posterior(2, draws)
    exact = jg.steer_to_floor(game, floor, lever="common")
    robust = jg.steer(
        changed,
        start,
        objective=missing,
        cost=jax.tree_util.Partial(effort, start=start["attractiveness"]),
        goal=reached,
        scenarios=survey.posterior(1, SCENARIOS),
        risk=("cvar", TAIL),
        confidence=SURE,
        fresh=fresh,
        max_steps=steps,
    )
    after = jg.solve(changed(robust.theta, survey))
    record: dict[str, Any] = {
        "survey": name,
        "groups": list(survey.groups),
        "critical_ratios": [float(x) if np.isfinite(x) else None for x in ratios],
        "excluded": [g for g, out in zip(survey.groups, jg.excluded(before), strict=True) if out],
        "price_of_inclusion": np.asarray(jg.inclusion_price(game, before)).tolist(),
    }
    plans = {"exact": (exact, start | {"appeal": exact.theta}), "robust": (robust, robust.theta)}
    for label, (plan, theta) in plans.items():
        held = np.asarray(shown(fresh, theta)[1])
        record[label] = {
            "success": bool(plan.success),
            "message": plan.message,
            "unique": bool(plan.certificate.unique),
            "attractiveness": float(theta["attractiveness"]),
            "addition": np.asarray(theta["appeal"]).tolist(),
            "norm": float(jnp.linalg.norm(theta["appeal"])),
            "holds": float(held.mean()),
        }
    record["exact"]["guidance"] = exact.guidance(survey.groups)
    drawn = dataclasses.replace(robust, before=before, equilibrium=after, details={"floor": np.asarray(floor)})
    return record, drawn, np.asarray(shown(fresh, robust.theta)[0])


def text(report: dict[str, Any]) -> str:
    lines = ["# Plans for real people", ""]
    lines += common.prose(
        "Written by `benchmarks/real_plans.py`, which says what is planned.",
        common.described(report["environment"]) + ".",
        f"{AGENTS} agents, γ = {CONSISTENCY:g}, δ = {DIVERSITY:g}, α/γ = {PAST:g} × the second critical ratio; floor:",
        f"{FLOOR:.0%} of every group's share. Holds: in how many of {report['draws']} fresh posterior draws of the",
        "survey every group has its floor (of its share in that draw).",
    )
    rows = []
    for case in report["cases"]:
        for label in ("exact", "robust"):
            made = case[label]
            rows.append(
                [
                    case["survey"],
                    f"{len(case['excluded'])} of {len(case['groups'])}",
                    label,
                    f"{case['exact']['attractiveness']:.4g} → {made['attractiveness']:.4g}",
                    f"{made['norm']:.4g}",
                    "proved" if made["unique"] else "not proved",
                    "yes" if made["success"] else "no",
                    f"{made['holds']:.1%}",
                ]
            )
    header = ["survey", "excluded", "plan", "α", "norm of the addition", "uniqueness", "success", "holds"]
    lines += ["", *common.table(header, rows)]
    for case in report["cases"]:
        lines += ["", f"## {case['survey']}", "", "Excluded before: " + ", ".join(case["excluded"]) + "."]
        lines += ["", "Exact plan:", "", "```", case["exact"]["guidance"], "```", "", "Robust plan:", ""]
        lines += common.prose(case["robust"]["message"])
        pairs = zip(case["groups"], case["robust"]["addition"], strict=True)
        lines += ["", *common.table(["group", "added to its appeal"], [[g, f"{x:+.4f}"] for g, x in pairs])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Plans that bring every group of a survey to half its share.")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--steps", type=int, default=150, help="of the robust plan")
    parser.add_argument("--surveys", nargs="+", default=SURVEYS)
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    cases = []
    report = {"environment": common.environment("numpy"), "draws": arguments.draws, "cases": cases}
    for name in arguments.surveys:
        record, plan, representation = study(name, arguments.draws, arguments.steps)
        cases.append(record)
        low, high = np.quantile(representation, (0.05, 0.95), axis=0)
        made = record["robust"]
        note = (
            f"{name}, {AGENTS} agents. Attractiveness {record['exact']['attractiveness']:.3f} → "
            f"{made['attractiveness']:.3f}, additions to appeal of norm {made['norm']:.3f}. Blue lines: 90 % of "
            f"{arguments.draws} posterior draws of the survey."
        )
        title = f"A plan by which all groups have half their share in {made['holds']:.0%} of draws"
        save(draw(plan, record["groups"], title, note, (low, high)), arguments.output, f"plan-{name}")
        common.write_json(arguments.output / "real_plans.json", report)
        common.write(arguments.output / "real_plans.md", text(report))
    print(text(report))


if __name__ == "__main__":
    main()
