"""The long texts of `jaxgame … --help`."""

from __future__ import annotations


def _paragraphs(text: str) -> str:
    """Lines of a paragraph joined: the terminal breaks them where it is wide enough."""
    return "\n\n".join(" ".join(block.split()) for block in text.strip().split("\n\n"))


STUDY = _paragraphs("""
[bold]What the levels mean[/bold]

A population of agents chooses which human groups to speak for. Each agent weighs three things. α,
[bold]attractiveness[/bold]: what its audience likes to hear. γ, [bold]consistency[/bold]: the shares of the population,
which it was aligned to. δ, [bold]diversity[/bold]: being different from the other agents (negative: being alike). As
α/γ grows, groups are left out one after the other, each at its own critical ratio.

[bold]Examples[/bold]

jaxgame study

jaxgame study --attractiveness 1 --out results/attractive

jaxgame study --survey gss2018-ideology-age --metric mixture --diversity 0

jaxgame study --survey people.csv --group party --questions q1,q2,q3 --weight w

jaxgame study --config study.toml --draws 1000

[bold]study.toml[/bold] holds the same options, as in attractiveness = 1.0; flags go before it, and it before the
defaults. For a CSV it can also hold groups (a list, in the order wanted), missing (a list of codes for no answer) and
questions as a table: column = a list of texts in their order, a table text = value, "numeric", or "unordered".

[bold]Files[/bold] in --out: report.html (one page with everything, to explore in a browser; it loads nothing),
report.json (all numbers, and what is needed to repeat them), profile.npz, survey.json, and the figures representation,
exclusion, plan, map and convergence as PNG and SVG. They replace those of an earlier run, all or none. Exit code 1: not
converged or not certified; 2: bad input.
""")

STEER = _paragraphs("""
[bold]What is asked for[/bold]: that every group be shown at least --share of its share of the people (with --game: at
least --floor of everything). [bold]What may be changed[/bold], --lever:

[bold]price[/bold]: a payment to every agent per unit of a group's representation. [bold]common[/bold]: one addition to
everyone's appeal. Both are found exactly for any number of agents; --minimise norm looks for a smaller change that may
also help or burden groups that are not at their floor.

[bold]appeal[/bold], [bold]targets[/bold]: a change of single agents' appeal or alignment targets, of least norm.

[bold]Examples[/bold]

jaxgame steer --attractiveness 0.8 --lever price

jaxgame steer --survey gss2018-ideology-age --share 0.3 --agents 20 --lever targets --out results/plan

jaxgame steer --game game.toml --floor 0.05 --lever common

Other options of the population come from --config, a TOML file as for `jaxgame study`. With --out: report.html,
report.json, plan.npz and the figures plan and, of a survey, map. Exit code 1: the plan does not do what was asked; 2:
bad input.
""")

SOLVE = _paragraphs("""
[bold]The game[/bold] is a .toml file (numbers inline, or names of .npy and .csv files beside it) or a .npz file (the
same names as arrays; what stands in a table has a dot, as in coupling.B). Names are those of the constructors
AlignmentGame and QuadraticGame; n agents, D groups.

[bold]kind = "alignment"[/bold]: targets (n, D), kernel (D, D), appeal (n, D) or (D,); optional attractiveness,
consistency, diversity, diversity_form, consistency_metric, spread, reach, multiplicity, and a table coupling with
weights (n, n) or edges (m, 3: i, j, weight).

[bold]kind = "quadratic"[/bold]: linear (n, D); curvature: a number, (n,), (D, D) or (n, D, D), or a table with
diagonal, or with scale and matrix; a table coupling with kind = "mean-field" (B; optional sensitivity, reach,
multiplicity, atomic, include_self), "network" (weights or edges; optional B) or "dense" (B (n, n, D, D)).

Both: optional groups, a list of D names.

[bold]Examples[/bold]

jaxgame solve game.toml

jaxgame solve game.npz --out results/mine --solver Newton

Exit code 1: not converged or not certified; 2: bad input.
""")

STREAM = _paragraphs("""
[bold]The folder[/bold] holds population.json and a .npy file for every array that has a row an agent (float32 or
float64, C order, as numpy.save or numpy.lib.format.open_memmap write them). What all agents share stands in
population.json under the names of `jaxgame solve`'s .npz files; a name is in one place or the other.

[bold]{"kind": "quadratic", "curvature": 1.0, "coupling.B": \\[\\[0.5, 0.1], \\[0.1, 0.5]]}[/bold] with linear.npy
(n, D). curvature may also be a matrix, or curvature.npy (n,), or curvature.diagonal (D,) or .npy (n, D), or
curvature.scale.npy (n,) with curvature.matrix. Optional: coupling.sensitivity, a number or .npy (n,);
coupling.reach.npy (n,), summing to 1; coupling.atomic, coupling.include_self.

[bold]{"kind": "alignment", "kernel": \\[\\[1, 0.2], \\[0.2, 1]], "attractiveness": 0.3}[/bold] with targets.npy
(n, D), and appeal (D,) or .npy (n, D). Optional: attractiveness, consistency, diversity, numbers or .npy (n,); spread;
reach.npy (n,); diversity_form, consistency_metric.

Both: optional groups, a list of D names.

[bold]What happens[/bold]: a sample is solved, then a few passes are made over all agents, a block in memory at a time,
until the residual is proved to be at most --tol. The checkpoint folder notes every few seconds how far that is. After
Ctrl-C, a crash or a loss of power the same command goes on from there, to the same answer; once it has the answer,
it says it at once. A checkpoint of another population, or of files that have changed, is refused.

[bold]Examples[/bold]

jaxgame stream population/

jaxgame stream population/ --out results/mine --profile --checkpoint /scratch/mine

Exit code 1: not converged; 2: bad input, by file, block and agent; 130: interrupted.
""")

SWEEP = _paragraphs("""
[bold]What is mapped[/bold]: the equilibrium of a survey's population at every point of a grid. Axes are levels of the
game: [bold]attractiveness[/bold] α, [bold]consistency[/bold] γ, [bold]diversity[/bold] δ (see `jaxgame study --help`);
what is no axis keeps its value. With γ = 1 the axes attractiveness and diversity are α/γ and δ/γ, on which alone the
equilibrium depends.

[bold]How to read the map[/bold]: a colour says how many groups no agent represents. Lines are where a group falls out
or comes back, each of their points found by bisection to 1e-10. Hatched once: the equilibrium is not proved to be the
only one. Such points are solved from the uniform profile, from both ends of every axis, and from --starts other
profiles; hatched twice: these led to different equilibria. Black: none was found.

[bold]Examples[/bold]

jaxgame sweep --x attractiveness=0:1:200 --y diversity=0:2:200

jaxgame sweep --x attractiveness=0:2:500 --survey gss2018-ideology-age --out results/curves

jaxgame sweep --x attractiveness=0:1:100 --y diversity=0:1.5:100 --diversity-form centroid --agents 20

[bold]Files[/bold] in --out: report.html (the diagram with a cursor that reads out every point), sweep.npz (all arrays;
in Python jg.Sweep.load), report.json, and the figure phase as PNG and SVG. After Ctrl-C or a crash the same command
goes on from what is finished, to the same file. Exit code 1: some points have no equilibrium; 2: bad input; 130:
interrupted.
""")

ALIGN = _paragraphs("""
[bold]What happens[/bold]: a small language model learns what each group of the survey answered, as templated sentences.
The game is measured from what these models say; its equilibrium predicts which mixture of groups every agent becomes.
Each agent is then made: as the mixture itself, and as a single model, by distillation and by reinforcement learning
with the mixture's reward. Text is drawn from all of them, and who speaks in it is estimated from the text alone. Then
one addition to everyone's appeal brings every group to --floor of its share, and it all happens again.

[bold]Examples[/bold]

jaxgame align

jaxgame align --survey gss2018-ideology-age --groups all --out results/align-9

jaxgame align --model smollm2

[bold]Groups[/bold]: neighbours among seven or nine groups say nearly the same, and no text of this size tells them
apart. Pooled to three, promises are checked; with all, errors are reported beside the least that is possible.

[bold]Files[/bold] in --out: report.md, report.json, the figure text. A run that was stopped goes on from --work, and
so does one that has ended; delete that folder to begin anew. Exit code 1: a promise was not kept; 2: bad input; 130:
interrupted.
""")
